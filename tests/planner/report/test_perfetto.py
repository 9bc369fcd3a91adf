"""The trace of a plan: its numbers are the plan's, and viewers take it."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from planner.plan.host_memory import host_bytes
from planner.plan.plan import Plan
from planner.plan.plan_file import write_plan
from planner.report.perfetto import (
    BUDGET,
    DEVICE_WITH,
    DEVICE_WITHOUT,
    HOST,
    Event,
    Lane,
    on_grid_us,
    trace,
)
from planner.solving import solve
from runtime.cli import main
from tests.support.planning.plans import empty_plan, periodic_plan, stalling_plan
from tests.support.planning.rebuilt import mixed_plan
from tests.support.planning.toys import activation, fixed, toy

REQUIRED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "i": {"name", "cat", "pid", "tid", "ts", "s", "args"},
    "C": {"name", "pid", "ts", "args"},
    "s": {"name", "cat", "pid", "tid", "ts", "id"},
    "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
}
"""Keys of each phase, from the Trace Event Format's own description."""


GRID_US = 1 / 8
PLANS = pytest.mark.parametrize("plan", [stalling_plan, periodic_plan, empty_plan, mixed_plan])


def events_of(plan: Plan, phase: str, lane: Lane | None = None) -> list[Event]:
    return [
        event
        for event in trace(plan)["traceEvents"]
        if event["ph"] == phase and (lane is None or event["tid"] == lane.value)
    ]


def step_count(plan: Plan) -> int:
    return len(events_of(plan, "X", Lane.STEP))


READINGS = {
    "binary": lambda us: us,
    "nanoseconds, rounded": lambda us: round(us * 1000),
    "nanoseconds, cut": lambda us: int(us * 1000),
}
"""How viewers keep the times of a file, and add start and duration."""


@PLANS
def test_every_event_is_as_the_format_wants_it(plan: Any) -> None:
    for event in trace(plan())["traceEvents"]:
        assert set(event) == REQUIRED[event["ph"]] | {"ph"} | (set(event) & {"tid"})
        assert isinstance(event["name"], str)
        for key in ("pid", "tid", "id"):
            assert isinstance(event.get(key, 0), int)
        for key in ("ts", "dur"):
            assert event.get(key, 0.0) >= 0
        if event["ph"] == "C":
            assert [type(value) for value in event["args"].values()] == [int]


@PLANS
def test_events_come_in_order_of_time(plan: Any) -> None:
    phases = [event["ph"] for event in trace(plan())["traceEvents"]]
    metadata = phases.count("M")
    assert set(phases[:metadata]) == {"M"}
    times = [event["ts"] for event in trace(plan())["traceEvents"][metadata:]]
    assert times == sorted(times)


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
@PLANS
def test_no_two_slices_of_a_lane_overlap(plan: Any, reading: Callable[[float], float]) -> None:
    for lane in Lane:
        slices = [
            (reading(event["ts"]), reading(event["ts"]) + reading(event["dur"]))
            for event in events_of(plan(), "X", lane)
        ]
        assert all(before[1] <= after[0] for before, after in pairwise(slices)), lane


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_times_as_they_are_would_overlap(reading: Callable[[float], float]) -> None:
    """The reason for [Note: eighths of a microsecond]: thirds of one, written to nanoseconds."""
    ends_us = [round(n / 3, 3) for n in range(4000)]
    passed = [
        reading(start_us) + reading(round(end_us - start_us, 3)) > reading(end_us)
        for start_us, end_us in pairwise(ends_us)
    ]
    exact = [on_grid_us(end_us) for end_us in ends_us]
    assert any(passed) == (reading is not READINGS["nanoseconds, rounded"])
    assert all(
        reading(start_us) + reading(end_us - start_us) == reading(end_us)
        for start_us, end_us in pairwise(exact)
    )


@PLANS
def test_arrows_are_balanced_and_bound_to_copies(plan: Any) -> None:
    starts, ends = events_of(plan(), "s"), events_of(plan(), "f")
    numbers = [event["id"] for event in starts]
    assert len(numbers) == len(set(numbers))
    assert sorted(numbers) == sorted(event["id"] for event in ends)
    by_place = {
        (event["tid"], event["ts"]): event["args"]["storage"]
        for lane in (Lane.D2H, Lane.H2D)
        for event in events_of(plan(), "X", lane)
    }
    back = {event["id"]: event for event in ends}
    for start in starts:
        end = back[start["id"]]
        assert start["ts"] < end["ts"]
        from_storage = by_place[Lane.D2H.value, start["ts"]]
        assert from_storage == by_place[Lane.H2D.value, end["ts"]]


def test_every_swap_has_its_arrow() -> None:
    assert len(events_of(stalling_plan(), "s")) == len(stalling_plan().swaps)
    assert events_of(empty_plan(), "s") == []


def test_arrows_cross_the_step_boundary() -> None:
    """A wrapping swap is seen whole: it leaves in the first step and is back in the second."""
    plan = periodic_plan()
    step_us = plan.certificate.simulated_step_us
    ends = {event["id"]: event["ts"] for event in events_of(plan, "f")}
    crossing = [e for e in events_of(plan, "s") if e["ts"] < step_us <= ends[e["id"]]]
    back_later = [s for s in plan.swaps if s.swap_in_slot < s.swap_out_slot]
    assert step_count(plan) == 2
    assert len(crossing) >= len(back_later) > 0


def test_a_clean_swap_comes_back_from_the_copy_of_an_earlier_swap() -> None:
    plan = periodic_plan()
    into = Counter(event["ts"] for event in events_of(plan, "f"))
    clean = [
        event
        for event in events_of(plan, "X", Lane.H2D)
        if event["args"]["clean"] and event["ts"] >= plan.certificate.simulated_step_us
    ]
    held = {swap.storage for swap in plan.swaps if not swap.clean}
    assert clean
    for event in clean:
        assert into[event["ts"]] == (event["args"]["storage"] in held)


@PLANS
def test_the_numbers_are_the_plans(plan: Any) -> None:
    plan = plan()
    about, steps = plan.certificate, step_count(plan)

    def moved_bytes(lane: Lane) -> int:
        return sum(event["args"]["bytes"] for event in events_of(plan, "X", lane))

    assert moved_bytes(Lane.D2H) == about.d2h_bytes * steps
    assert moved_bytes(Lane.H2D) == about.h2d_bytes * steps
    compute = events_of(plan, "X", Lane.COMPUTE)
    stalls = [event for event in compute if event["name"] == "stall"]
    stall_us = sum(event["dur"] for event in stalls)
    assert stall_us == pytest.approx(about.simulated_stall_us * steps, abs=GRID_US * len(stalls))
    for event in events_of(plan, "X", Lane.STEP):
        assert event["dur"] == pytest.approx(about.simulated_step_us, abs=2 * GRID_US)
        assert event["args"]["peak_bytes"] == about.peak_bytes
    again = [event for event in compute if event["name"].startswith("again: ")]
    assert sum(event["args"]["recompute_us"] for event in again) == about.recompute_us * steps
    assert len(again) == len(plan.rebuilds) * steps
    slots = len(compute) - len(stalls) - len(again)
    assert slots == steps * sum(slot.duration_us > slot.recompute_us for slot in plan.slots)
    brief = [event["args"]["slots"] for event in events_of(plan, "i", Lane.NO_TIME)]
    assert sum(map(len, brief)) == steps * sum(slot.duration_us == 0 for slot in plan.slots)


def test_what_is_run_again_stands_before_its_slot() -> None:
    compute = events_of(mixed_plan(), "X", Lane.COMPUTE)
    names = [event["name"] for event in compute]
    first = names.index("again: op2")
    assert names[first + 1] == "anchor:5"
    again, slot = compute[first : first + 2]
    assert again["ts"] + again["dur"] == slot["ts"]
    assert (again["dur"], slot["dur"]) == (10.0, 500.0)
    args = again["args"]
    assert (args["fills"], args["dropped_at"], args["bytes"]) == (["pack:2"], ["anchor:3"], 50)


@PLANS
def test_counters_are_the_plans(plan: Any) -> None:
    plan = plan()

    def most(name: str) -> int:
        return max(e["args"]["bytes"] for e in events_of(plan, "C") if e["name"] == name)

    assert most(DEVICE_WITH) == plan.certificate.peak_bytes
    assert most(DEVICE_WITHOUT) == plan.certificate.peak_without_bytes
    assert most(BUDGET) == plan.budget_bytes
    assert most(HOST) == max(host_bytes(plan)) <= plan.host_pool_bytes


def test_host_bytes_by_hand() -> None:
    """50 bytes leave at slot 1 and are awaited at slot 4: that slot's anchor still holds them."""
    storages = [activation("pack:0", 50, 0, 4), fixed("op:2", 100, 2)]
    plan = solve(toy(*[1000.0] * 5, storages=storages), budget_bytes=105)
    (swap,) = plan.swaps
    held = [50 if swap.swap_out_slot <= t <= swap.await_slot else 0 for t in range(len(plan.slots))]
    assert list(host_bytes(plan)) == held
    assert sum(held) > 0


@pytest.mark.parametrize("name", ["a.trace.json", "a.trace.json.gz"])
def test_the_command_writes_the_trace(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, output = tmp_path / "a.plan.json", tmp_path / name
    write_plan(stalling_plan(), plan)
    assert main(["trace", str(plan), "-o", str(output)]) == 0
    data = output.read_bytes()
    content = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    assert content == json.loads(json.dumps(trace(stalling_plan())))
    assert content["displayTimeUnit"] == "ms"
    assert content["otherData"]["times"] == "simulated"
    assert capsys.readouterr().out == f"Wrote {output}\n"
