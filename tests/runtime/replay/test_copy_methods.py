"""What carries each copy: chosen from measured rates, stored in the plan, done by the lanes."""

import builtins
import json
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.plan.copy_times import batches, copy_us, engine_for, lane_loads, launch_us
from planner.plan.lanes import Direction, LaneLoad
from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan, write_plan
from planner.plan.schedule import Action, ActionKind, lower
from planner.plan.simulate import simulate, simulate_plan
from planner.solving import solve
from planner.studies.check import check_plan_against
from planner.studies.shared_link import shared_link
from profiles.hardware.links import LINK_FACTS
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on
from profiles.schema.errors import SwapplanError
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Profile, WorkloadSource
from runtime import FallbackWarning, LoadedPlan, Replay
from runtime.host.host_pool import HostPool
from runtime.kernels.carrier import KernelCarrier
from runtime.kernels.cuda_carrier import LEAST_WORDS, PinnedTables
from runtime.kernels.host_carrier import host_carrier
from runtime.kernels.job import ROW_WORDS, CopyJob
from runtime.lanes import emulated as lanes
from runtime.lanes.emulated import Copy, EmulatedLane
from runtime.lanes.measure import measure_methods
from runtime.lanes.streams import StreamLane
from runtime.proof.proof import prove
from tests.support.planning.hardest_plans import everything_away
from tests.support.planning.oracle import smallest_budget_bytes
from tests.support.planning.strategies import peak_bytes, random_profile
from tests.support.training.fake_streams import ComputeLog, put_on_streams
from tests.support.training.fixed_times import FAST_LINK, record_at_fixed_times
from tests.support.training.kernel_plans import (
    BATCHED,
    KIB,
    PACKED,
    ROWS,
    WIDTH,
    by_kernel,
    kernel_plan,
    link_with_kernels,
    masking,
    masking_profile,
    method_rate,
    with_engines,
)
from tests.support.training.recorded import assert_same, snapshot

pytestmark = pytest.mark.cpu_only

CPU = torch.device("cpu")
COPY_ENGINE = CopyMethod.DMA
VECTOR = CopyMethod.VECTOR_KERNEL
SEEDS = 30
SPEEDS = (0.3, 0.8, 1.0, 2.0, 6.0)
"""Of kernels, as shares of their copy engine's rate."""


def test_between_two_measured_sizes_time_is_in_proportion() -> None:
    """4 KiB at 500 B/us take 8.192 us, 256 KiB at 700 take 374.491; 130 KiB lie in the middle."""
    link = link_with_kernels()
    times = [copy_us(link, Direction.D2H, size * KIB, VECTOR) for size in (4, 130, 256, 512)]
    assert times == pytest.approx([8.192, (8.192 + 374.491) / 2, 374.491, 2 * 374.491], rel=1e-5)
    assert copy_us(link, Direction.H2D, 1, VECTOR) == pytest.approx(8.192), "a launch takes that"
    assert copy_us(link, Direction.D2H, 4 * KIB, COPY_ENGINE) == pytest.approx(10 + 4.096)
    assert copy_us(FAST_LINK, Direction.D2H, 50_000, PACKED) == 1.0, "nothing was measured there"


@pytest.mark.parametrize(
    ("size_bytes", "is_mask", "expected"),
    [
        (4 * KIB, False, BATCHED),  # 4.6 us against 14.1 by copy engine and 8.2 by vector kernel
        (4 * KIB, True, BATCHED),  # bits take 10.2 us
        (64 * KIB, True, PACKED),  # 20 us, the batch kernel 72.8
        (256 * KIB, False, COPY_ENGINE),  # 272 us, the batch kernel 291
        (256 * KIB, True, PACKED),
        (1024 * KIB, False, COPY_ENGINE),  # above what was measured
        (1024 * KIB, True, PACKED),
    ],
)
def test_the_fastest_engine_is_chosen(size_bytes: int, is_mask: bool, expected: CopyMethod) -> None:
    assert engine_for(link_with_kernels(), size_bytes, is_mask=is_mask) is expected
    assert engine_for(FAST_LINK, size_bytes, is_mask=is_mask) is COPY_ENGINE


def test_a_kernel_must_beat_the_copy_engine_measured_beside_it() -> None:
    link = link_with_kernels()
    beside = method_rate(COPY_ENGINE, 4 * KIB, 1000.0)
    faster = link.model_copy(update={"engines": (*link.engines, beside)})
    assert engine_for(link, 4 * KIB, is_mask=False) is BATCHED
    assert engine_for(faster, 4 * KIB, is_mask=False) is COPY_ENGINE
    assert copy_us(faster, Direction.D2H, 4 * KIB, COPY_ENGINE) == pytest.approx(14.096)


def test_neighbours_go_in_one_launch() -> None:
    """Two of 4 KiB and one of 8 KiB by batch, with a copy of the copy engine before the last."""
    engines = dict.fromkeys((1, 2, 4), BATCHED)
    outs = [Action(ActionKind.SWAP_OUT, storage) for storage in (1, 2, 3, 4)]
    assert [[a.storage for a in group] for group in batches(outs, engines)] == [[1, 2], [3], [4]]
    sizes = {1: 4 * KIB, 2: 4 * KIB, 3: 1000, 4: 4 * KIB}
    link = link_with_kernels()
    both_us = launch_us(link, Direction.D2H, [4 * KIB, 4 * KIB], BATCHED)
    assert both_us == pytest.approx(2 * 4096 / 900)
    alone_us = launch_us(link, Direction.D2H, [4 * KIB], BATCHED)
    assert alone_us == pytest.approx(8.192), "no less than a kernel of its own"
    schedule = ((*outs, Action(ActionKind.RELEASE, 1)),)
    (loads,) = lane_loads(schedule, sizes, link, engines)
    assert loads == (
        LaneLoad(0.0, both_us),
        LaneLoad(0.0, 0.0),
        LaneLoad(10.0, 1.0),
        LaneLoad(0.0, alone_us),
        None,
    )


def test_a_batch_ends_together_in_the_simulation() -> None:
    out, back = ActionKind.SWAP_OUT, ActionKind.SWAP_IN
    schedule = (
        (Action(out, 0), Action(out, 1)),
        (Action(ActionKind.RELEASE, 0), Action(ActionKind.RELEASE, 1)),
        (Action(back, 0), Action(back, 1)),
        (Action(ActionKind.AWAIT, 0), Action(ActionKind.AWAIT, 1)),
    )
    found = simulate(
        durations_us=(100.0, 100.0, 4.0, 0.0),
        sizes_bytes={0: 4 * KIB, 1: 4 * KIB},
        link=link_with_kernels(),
        schedule=schedule,
        engines={0: BATCHED, 1: BATCHED},
    )
    took_us = 2 * 4096 / 900
    assert [copy.end_us for copy in found.d2h] == pytest.approx([took_us, took_us])
    assert [copy.end_us for copy in found.h2d] == pytest.approx([200 + took_us] * 2)
    assert found.total_stall_us == pytest.approx(took_us - 4.0)


def test_workers_that_share_a_link_share_it_for_kernels() -> None:
    sharing = next(f.sharing for f in LINK_FACTS.values() if f.sharing is not None)
    link = link_with_kernels()
    shared = shared_link(link, workers=sharing.gpus_per_uplink * 2, sharing=sharing, exchange=None)
    for before, after in zip(link.engines, shared.engines, strict=True):
        share = shared.d2h_bytes_per_us / link.d2h_bytes_per_us
        assert after.d2h_bytes_per_us == pytest.approx(before.d2h_bytes_per_us * share)


def test_the_recorder_tells_masks_from_other_bytes() -> None:
    masks = [s for s in masking_profile().storages if s.is_mask]
    assert len(masks) >= 4
    assert {s.size_bytes for s in masks} == {ROWS * WIDTH}


@pytest.fixture(scope="module", name="planned")
def _planned() -> Plan:
    """Planned from rates under which masks go as bits and small storages in batches."""
    profile = masking_profile()
    peak_bytes = solve(profile, budget_bytes=1 << 40).certificate.peak_without_bytes
    # Not searched for: the methods are chosen for whatever is moved.
    budget_bytes = peak_bytes * 40 // 100
    return solve(profile, budget_bytes=budget_bytes, min_size_bytes=1, stop=lambda: True)


def test_the_planner_chooses_and_the_plan_file_keeps_it(planned: Plan, tmp_path: Path) -> None:
    path = tmp_path / "masking.plan.json"
    write_plan(planned, path)
    assert read_plan(path) == planned
    stored = json.loads(path.read_text())["swaps"]
    assert {swap["engine"] for swap in stored} >= {PACKED.value, BATCHED.value}
    storages = planned.by_id
    for swap in planned.swaps:
        storage = storages[swap.storage]
        expected = engine_for(planned.link, storage.size_bytes, is_mask=storage.is_mask)
        assert swap.engine is expected
        assert swap.host_offset_bytes % 16 == 0, "kernels move 16 bytes at a time"
    about = planned.certificate
    moved = sum(planned.host_sizes_bytes[swap.storage] for swap in planned.swaps)
    assert about.h2d_bytes == moved
    assert moved < sum(storages[swap.storage].size_bytes for swap in planned.swaps)
    assert about.simulated_stall_us == pytest.approx(simulate_plan(planned).total_stall_us)
    assert about.bound_beyond_us <= about.simulated_stall_us + 1e-6


def test_a_plan_with_kernels_checks_against_its_profile(planned: Plan) -> None:
    assert check_plan_against(planned, masking_profile()).mismatches == ()


def with_random_kernels(seed: int) -> Profile:
    """A random step on a link whose kernels are slower or faster than its copy engine."""
    rng = random.Random(seed)
    profile = random_profile(seed)
    link = profile.link
    engines = tuple(
        method_rate(engine, size_bytes, link.d2h_bytes_per_us * rng.choice(SPEEDS))
        for engine in (COPY_ENGINE, VECTOR, BATCHED, PACKED)
        for size_bytes in (64, 600)
        if rng.random() < 0.9
    )
    both = rng.choice([None, 1.3 * max(link.d2h_bytes_per_us, link.h2d_bytes_per_us)])
    link = link.model_copy(update={"engines": engines, "both_bytes_per_us": both})
    storages = tuple(
        storage.model_copy(update={"is_mask": rng.random() < 0.3}) for storage in profile.storages
    )
    return profile.model_copy(update={"link": link, "storages": storages})


def test_no_plan_with_kernels_is_below_its_bound() -> None:
    """Building a plan verifies it: bound, simulation, host layout and engines."""
    carried: set[CopyMethod] = set()
    for seed in range(SEEDS):
        profile = with_random_kernels(seed)
        smallest = smallest_budget_bytes(profile)
        budget_bytes = smallest + (peak_bytes(profile) - smallest) * (seed % 4) // 5
        plan = solve(profile, budget_bytes=budget_bytes, min_size_bytes=1)
        carried.update(swap.engine for swap in plan.swaps)
    assert carried == {COPY_ENGINE, VECTOR, BATCHED, PACKED}


def test_the_plan_is_replayed_bit_equal_by_its_kernels(planned: Plan) -> None:
    report = prove(planned, build=masking, steps=4, timed_steps=1)
    assert report.passed, report.warnings
    assert report.d2h_bytes == planned.certificate.d2h_bytes


def test_every_kernel_carries_on_the_emulated_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that can move does, three steps long, and what went how is what the plan says."""
    plan = kernel_plan()
    launches: list[tuple[CopyMethod, int]] = []
    run = lanes._run_kernel

    def noted(copy: Copy, direction: Direction, carrier: KernelCarrier) -> None:
        launches.append((copy.engine, len(copy.pieces)))
        run(copy, direction, carrier)

    monkeypatch.setattr(lanes, "_run_kernel", noted)
    plain, workload = masking(), masking()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(3):
            launches.clear()
            plain_loss = plain.step()
            with attached.step() as statistics:
                loss = workload.step()
            assert statistics.fallback is None
            assert torch.equal(plain_loss, loss)
    assert_same(snapshot(plain), snapshot(workload))
    assert statistics.d2h_bytes == plan.certificate.d2h_bytes
    assert launches_of(plan) == sorted(launches)
    assert max(count for engine, count in launches if engine is BATCHED) > 1, "one launch for many"
    assert {engine for engine, _ in launches} == {VECTOR, BATCHED, PACKED}


def launches_of(plan: Plan) -> list[tuple[CopyMethod, int]]:
    """What the simulator counts with."""
    issued = (ActionKind.SWAP_OUT, ActionKind.SWAP_IN)
    groups = [
        group
        for actions in lower(plan)
        for kind in issued
        for group in batches([a for a in actions if a.kind is kind], plan.engines)
    ]
    return sorted((plan.engines[group[0].storage], len(group)) for group in groups)


def test_on_streams_kernels_race_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = kernel_plan()
    streams = put_on_streams(monkeypatch, plan)
    plain, workload = masking(), masking()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(2):
            plain.step()
            streams.launches.clear()
            with attached.step() as statistics, ComputeLog(streams):
                workload.step()
            assert statistics.fallback is None
    assert streams.races == []
    assert sorted(streams.launches) == launches_of(plan)
    assert_same(snapshot(plain), snapshot(workload))


class LosesTheRest(StreamLane):
    """Planted fault: the first of a batch to be waited for has the others left behind."""

    def flush(self) -> None:
        if self._pending is not None:
            del self._pending.pieces[1:]
        super().flush()


def test_a_batch_that_loses_a_copy_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = kernel_plan()
    put_on_streams(monkeypatch, plan, LosesTheRest)
    plain, workload = masking(), masking()

    def train() -> None:
        with Replay(plan, workload.model, workload.optimizer) as attached:
            for _ in range(3):
                plain.step()
                with attached.step():
                    workload.step()
        assert_same(snapshot(plain), snapshot(workload))

    # A step count that is lost and comes back as any number may end the step by itself: below 0
    # the optimizer's correction of it is complex, at 0 it divides by nothing.
    with pytest.raises((AssertionError, ArithmeticError, RuntimeError)):
        train()


def test_bools_that_are_none_fall_back_with_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that finds them tells so before the device's copy is given up."""
    plain, workload = masking(), masking()
    monkeypatch.setattr(KernelCarrier, "saw_stray", property(lambda _: True))
    plan = kernel_plan()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        plain.step()
        with attached.step() as first:
            workload.step()
        assert first.on_line, "it follows no plan"
        plain.step()
        with pytest.warns(FallbackWarning, match="no bools"), attached.step() as statistics:
            workload.step()
        assert statistics.fallback is not None
        assert_same(snapshot(plain), snapshot(workload))


def job(source: torch.Tensor, target: torch.Tensor) -> CopyJob:
    return CopyJob(
        source_address=source.data_ptr(), target_address=target.data_ptr(), size_bytes=64
    )


def test_a_stray_byte_is_seen() -> None:
    carrier = host_carrier()
    bools = torch.tensor([0, 1, 1, 0] * 16, dtype=torch.uint8)
    bits = torch.zeros(8, dtype=torch.uint8)
    out = [job(bools, bits)]
    carrier.carry(PACKED, out, to_host=True)
    assert not carrier.saw_stray
    back = torch.full((64,), 7, dtype=torch.uint8)
    carrier.carry(PACKED, [job(bits, back)], to_host=False)
    assert torch.equal(back, bools)
    bools[5] = 3
    carrier.carry(PACKED, out, to_host=True)
    assert carrier.saw_stray


def test_a_copy_engines_copy_is_carried_by_no_kernel() -> None:
    with pytest.raises(ValueError, match="copy_engine is no kernel"):
        host_carrier().carry(COPY_ENGINE, [job(torch.ones(16), torch.ones(16))], to_host=True)


def test_a_pending_batch_goes_off_when_it_is_waited_for() -> None:
    lane = EmulatedLane(Direction.D2H, 1e9, 0.0, carrier=host_carrier())
    pool = HostPool(3 * KIB)
    values = [torch.full((KIB,), number, dtype=torch.uint8) for number in range(3)]
    first, *others = (
        lane.issue(value.untyped_storage(), pool.stretch(number * KIB, KIB), BATCHED)
        for number, value in enumerate(values)
    )
    assert isinstance(first, Copy)
    assert all(other is first for other in others), "one batch"
    others[1].wait()
    assert [pool.tensor(number * KIB, KIB).tolist() for number in range(3)] == [
        value.tolist() for value in values
    ]
    assert first.wait() == 0.0
    assert first.span() == others[0].span()
    lane.close()


def test_kernels_without_numba_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "runtime.kernels.host_carrier":
            raise ImportError("No module named 'numba'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    workload = masking()
    with pytest.raises(SwapplanError, match=r"need numba-cuda.*pip install") as refused:
        LoadedPlan(kernel_plan()).attach(workload.model, workload.optimizer)
    assert "\n" not in str(refused.value)
    assert measure_methods(CPU) == ()


def test_kernels_are_measured_by_the_lanes() -> None:
    rates = measure_methods(CPU, sizes_bytes=(4 * KIB, 64 * KIB))
    assert [(rate.engine, rate.size_bytes) for rate in rates] == [
        (engine, size)
        for size in (4 * KIB, 64 * KIB)
        for engine in (COPY_ENGINE, VECTOR, BATCHED, PACKED)
    ]
    assert all(rate.d2h_bytes_per_us > 0 and rate.h2d_bytes_per_us > 0 for rate in rates)


class Event:
    """An event that has passed when the test says so."""

    def __init__(self) -> None:
        self.passed = False

    def record(self, stream: object) -> None:
        assert stream == "stream"

    def query(self) -> bool:
        return self.passed


class TablesOnTheCpu(PinnedTables):
    """Tables in ordinary memory, and the events behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def _new_table(self, words: int) -> torch.Tensor:
        return torch.empty(words, dtype=torch.int64)

    def _new_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]


def test_a_table_is_written_again_only_when_its_launch_is_over() -> None:
    tables = TablesOnTheCpu()

    def launch(words: int) -> int:
        table = tables.write(array("q", range(words)))
        assert table.rows == words // ROW_WORDS
        tables.launched("stream")
        return table.address

    first, second = launch(3), launch(3)
    assert first != second, "the first launch may not have run yet"
    tables.events[0].passed = True
    assert launch(6) == first
    assert launch(9) not in (first, second), "the second is still in flight"
    for event in tables.events:
        event.passed = True
    large = launch(3 * LEAST_WORDS)
    assert large not in (first, second), "too small a table is let go"


def test_plans_without_kernels_need_none_of_this(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is compiled for a plan that needs no kernel")

    monkeypatch.setattr("runtime.kernels.host_carrier.host_carrier", never)
    plan = with_engines(everything_away(masking_profile()), lambda _: COPY_ENGINE)
    assert plan.engines == {}
    workload = masking()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        with attached.step() as statistics:
            workload.step()
        assert statistics.fallback is None
    with pytest.raises(AssertionError, match="nothing is compiled"):
        LoadedPlan(kernel_plan()).attach(workload.model, workload.optimizer)


@pytest.mark.gpu
def test_on_a_gpu_every_kernel_carries() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())

    def build() -> Workload:
        return build_on(gpu, masking)

    source = WorkloadSource(reference="masking", settings=(), seed=0)
    profile = record_at_fixed_times(build(), source=source, link=link_with_kernels())
    plan = with_engines(everything_away(profile), by_kernel)
    assert set(plan.engines.values()) == {VECTOR, BATCHED, PACKED}
    plain, workload = build(), build()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(4):
            plain_loss = plain.step()
            with attached.step():
                loss = workload.step()
            assert torch.equal(plain_loss, loss)
    assert [step.fallback for step in attached.steps] == [None] * 4
    assert_same(snapshot(plain), snapshot(workload))
