"""The simulated step of a plan as a trace that Perfetto and Chrome open.

The format is the Trace Event Format's JSON object form: complete events (`X`) and instants (`i`)
on the lanes, counters (`C`), flow events (`s` and `f`) and metadata (`M`). Times in it are
microseconds.

[Note: eighths of a microsecond] Slices of one lane must follow or enclose each other. Viewers add
start and duration in binary fractions of a microsecond, or in whole nanoseconds, rounded or cut;
either sum of neighbours' times can pass the next start by a little, and then they are drawn nested
into each other. An eighth of a microsecond is whole in both. So both ends of a slice are rounded to
eighths, and the duration is their difference, exactly. What was rounded stands exact in `args`.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.plan.device_memory import planned_bytes
from planner.plan.host_memory import host_bytes
from planner.plan.simulate import Copy, Timeline, simulate_plan
from planner.report.simulated_swaps import SimulatedSwap, trips
from planner.report.text import certificate_rows, workload_text
from profiles.schema.files import CREATED_BY, write_atomically

if TYPE_CHECKING:
    from planner.plan.plan import Plan

Event = dict[str, Any]
"""One event, as it stands in the file."""


class Process(IntEnum):
    """Groups of rows; the values are process ids."""

    SIMULATED = 1
    MEASURED = 2


PROCESS = Process.SIMULATED.value
DEVICE_WITH = "device, with the plan:"
DEVICE_WITHOUT = "device, without the plan:"
BUDGET = "device, budget:"
HOST = "host pool:"


class Lane(IntEnum):
    """Rows of the trace; the values are its thread ids, which viewers sort by."""

    STEP = 2
    COMPUTE = 3
    D2H = 4
    H2D = 5
    NO_TIME = 6


LANE_NAMES = {
    Lane.STEP: "step",
    Lane.COMPUTE: "compute",
    Lane.D2H: "D2H: copies to the host",
    Lane.H2D: "H2D: copies back",
    Lane.NO_TIME: "slots that take no time",
}


@dataclass(frozen=True)
class _Step:
    """One of the steps that are drawn: all are alike, each begins when the one before ends."""

    number: int
    begin_us: float


@dataclass(frozen=True)
class _Arrow:
    """From the copy that brings bytes to the host to one that brings them back.

    Attributes:
        out: The copy to the host.
        back: The copy back.
        steps_between: How many steps after the first copy the second one is issued.
    """

    out: Copy
    back: Copy
    steps_between: int


def trace(plan: "Plan") -> dict[str, Any]:
    """Returns the trace of a plan's simulated step.

    It holds one step, or as many in a row as the longest way of any bytes to the host and back, so
    that each can be followed. Counters have one value per slot: the most held at any of its ops.

    Args:
        plan: The plan.
    """
    timeline = simulate_plan(plan)
    moved = trips(plan, timeline)
    arrows = tuple(_arrows(moved))
    count = 1 + max((arrow.steps_between for arrow in arrows), default=0)
    steps = tuple(_Step(n, n * timeline.step_us) for n in range(count))
    events = [
        event
        for step in steps
        for event in (
            *_step_events(plan, timeline, step),
            *_compute_events(plan, timeline, step),
            *_copy_events(plan, moved, step),
            *_counter_events(plan, timeline, step),
        )
    ]
    # A viewer binds a flow to the slice that is open: of events at one time, slices come first.
    events.extend(_flow_events(arrows, steps))
    events.sort(key=lambda event: event["ts"])
    return {
        "traceEvents": [*metadata_events(plan, Process.SIMULATED), *events],
        "displayTimeUnit": "ms",
        "otherData": {
            "created_by": CREATED_BY,
            "times": "simulated",
            **{what: f"{value} {how}".rstrip() for what, value, how in certificate_rows(plan)},
        },
    }


def write_trace(plan: "Plan", path: Path) -> None:
    """Writes a plan's trace, atomically; a path that ends in `.gz` is compressed.

    Raises:
        FileError: The path cannot be written.
    """
    write_events(trace(plan), path)


def write_events(content: Mapping[str, Any], path: Path) -> None:
    """Writes what `trace` returns, atomically; a path that ends in `.gz` is compressed.

    Raises:
        FileError: The path cannot be written.
    """
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    write_atomically(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data, path)


def metadata_events(plan: "Plan", process: Process) -> Iterator[Event]:
    """Names a process and its lanes."""
    title = f"swapplan, {process.name.lower()}: {workload_text(plan)}"
    yield {"ph": "M", "name": "process_name", "pid": process.value, "args": {"name": title}}
    for lane, name in LANE_NAMES.items():
        row = {"ph": "M", "pid": process.value, "tid": lane.value}
        yield row | {"name": "thread_name", "args": {"name": name}}
        yield row | {"name": "thread_sort_index", "args": {"sort_index": lane.value}}


def _step_events(plan: "Plan", timeline: Timeline, step: _Step) -> Iterator[Event]:
    about = plan.certificate
    args = {
        "step_us": timeline.step_us,
        "stall_us": timeline.total_stall_us,
        "bound_stall_us": about.bound_stall_us,
        "budget_bytes": plan.budget_bytes,
        "peak_bytes": about.peak_bytes,
        "peak_without_bytes": about.peak_without_bytes,
        "d2h_bytes": about.d2h_bytes,
        "h2d_bytes": about.h2d_bytes,
        "host_pool_bytes": plan.host_pool_bytes,
    }
    name = f"step {step.number + 1}"
    yield slice_event(Lane.STEP, name, step.begin_us, step.begin_us + timeline.step_us, args)


def _compute_events(plan: "Plan", timeline: Timeline, step: _Step) -> Iterator[Event]:
    for t, slot in enumerate(plan.slots):
        start_us = step.begin_us + timeline.start_us[t]
        if timeline.stall_us[t] > 0:
            waits = {"slot": t, "anchor": slot.anchor, "stall_us": timeline.stall_us[t]}
            yield slice_event(
                Lane.COMPUTE, "stall", start_us - timeline.stall_us[t], start_us, waits
            )
        if slot.duration_us > 0:
            end_us = start_us + slot.duration_us
            yield slice_event(Lane.COMPUTE, slot.anchor, start_us, end_us, _slot_args(plan, t))
    brief = [t for t, slot in enumerate(plan.slots) if slot.duration_us == 0]
    for start_us, group in groupby(brief, key=timeline.start_us.__getitem__):
        at_once = {str(t): plan.slots[t].anchor for t in group}
        name, more = next(iter(at_once.values())), len(at_once) - 1
        name = f"{name} +{more}" if more else name
        yield _instant(Lane.NO_TIME, name, step.begin_us + start_us, {"slots": at_once})


def _slot_args(plan: "Plan", t: int) -> Event:
    slot = plan.slots[t]
    shown = () if slot.shows is None else (("shows", plan.storage(slot.shows).name),)
    return {"slot": t, "op_that_needs_most": slot.peak_op, **dict(shown)}


def _copy_events(plan: "Plan", moved: Sequence[SimulatedSwap], step: _Step) -> Iterator[Event]:
    for trip in moved:
        args = _copy_args(plan, trip)
        if trip.out is not None:
            slack = {"slack_us": trip.out_slack_us}
            yield _copy_slice(Lane.D2H, trip, trip.out, step, args | slack)
        slack = {"slack_us": trip.in_slack_us}
        yield _copy_slice(Lane.H2D, trip, trip.back, step, args | slack)


def _copy_args(plan: "Plan", trip: SimulatedSwap) -> Event:
    swap, storage = trip.swap, trip.storage
    return {
        "storage": storage.id,
        "bytes": storage.size_bytes,
        "kind": storage.kind.value,
        "module": storage.module,
        "swap_out": plan.slots[swap.swap_out_slot].anchor,
        "release": plan.slots[swap.release_slot].anchor,
        "swap_in": plan.slots[swap.swap_in_slot].anchor,
        "await": plan.slots[swap.await_slot].anchor,
        "clean": swap.clean,
        "back_in_next_step": trip.back_in_next_step,
    }


def _copy_slice(
    lane: Lane, trip: SimulatedSwap, copy: Copy, step: _Step, args: Mapping[str, Any]
) -> Event:
    begin_us = step.begin_us
    return slice_event(
        lane, trip.storage.name, begin_us + copy.start_us, begin_us + copy.end_us, args
    )


def _counter_events(plan: "Plan", timeline: Timeline, step: _Step) -> Iterator[Event]:
    series = {
        DEVICE_WITH: planned_bytes(plan),
        DEVICE_WITHOUT: [slot.resident_bytes for slot in plan.slots],
        BUDGET: [plan.budget_bytes] * len(plan.slots),
        HOST: host_bytes(plan),
    }
    for name, sizes_bytes in series.items():
        before = None
        for start_us, size_bytes in zip(timeline.start_us, sizes_bytes, strict=True):
            if size_bytes != before:
                yield _counter(name, step.begin_us + start_us, size_bytes)
            before = size_bytes


def _arrows(moved: Sequence[SimulatedSwap]) -> Iterator[_Arrow]:
    """Pairs each copy back with the copy to the host that it reads: for a clean swap, an earlier
    trip's. Bytes that nothing ever writes were copied before the first step: no arrow."""
    by_storage: dict[int, list[SimulatedSwap]] = defaultdict(list)
    for trip in moved:
        by_storage[trip.storage.id].append(trip)
    for row in by_storage.values():
        row.sort(key=lambda trip: trip.swap.swap_out_slot)
        for position, trip in enumerate(row):
            for back_by in range(len(row)):
                # Before the first trip of a step comes the last one of the step before.
                out = row[position - back_by].out
                if out is not None:
                    steps = trip.back_in_next_step + (back_by > position)
                    yield _Arrow(out, trip.back, steps)
                    break


def _flow_events(arrows: Sequence[_Arrow], steps: Sequence[_Step]) -> Iterator[Event]:
    number = 0
    for step in steps:
        for arrow in arrows:
            if step.number + arrow.steps_between >= len(steps):
                continue
            number += 1
            back_step = steps[step.number + arrow.steps_between]
            out_us = on_grid_us(step.begin_us + arrow.out.start_us)
            back_us = on_grid_us(back_step.begin_us + arrow.back.start_us)
            trip = {"name": "trip", "cat": "trip", "id": number, "pid": PROCESS}
            yield trip | {"ph": "s", "tid": Lane.D2H.value, "ts": out_us}
            yield trip | {"ph": "f", "bp": "e", "tid": Lane.H2D.value, "ts": back_us}


def slice_event(
    lane: Lane,
    name: str,
    start_us: float,
    end_us: float,
    args: Mapping[str, Any],
    process: Process = Process.SIMULATED,
) -> Event:
    """A complete event; see [Note: eighths of a microsecond]."""
    start_us, end_us = on_grid_us(start_us), on_grid_us(end_us)
    return {
        "ph": "X",
        "name": name,
        "cat": lane.name.lower(),
        "pid": process.value,
        "tid": lane.value,
        "ts": start_us,
        "dur": end_us - start_us,
        "args": dict(args),
    }


def _instant(lane: Lane, name: str, time_us: float, args: Mapping[str, Any]) -> Event:
    return {
        "ph": "i",
        "s": "t",
        "name": name,
        "cat": lane.name.lower(),
        "pid": PROCESS,
        "tid": lane.value,
        "ts": on_grid_us(time_us),
        "args": dict(args),
    }


def _counter(name: str, time_us: float, size_bytes: int) -> Event:
    return {
        "ph": "C",
        "name": name,
        "pid": PROCESS,
        "ts": on_grid_us(time_us),
        "args": {"bytes": size_bytes},
    }


def on_grid_us(time_us: float) -> float:
    """Rounds a time as the file has it; see [Note: eighths of a microsecond]."""
    return round(time_us * 8) / 8
