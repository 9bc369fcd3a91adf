"""Every way to write a step, replayed under the hardest plans: on the CPU, and on a GPU.

On a GPU the races are widened: copies begin late and end late, and compute falls behind. Then a
wait that is missing shows as other numbers in almost every run, where it would otherwise show once
in a thousand. The last tests leave a wait out on purpose, to see that they would notice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from planner.plan.plan import Boundary, Plan
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on
from profiles.schema.link import CopyMethod
from profiles.schema.profile import WorkloadSource
from runtime import Replay
from runtime.host.host_pool import PinnedHostPool
from runtime.lanes.lane import Piece
from runtime.lanes.streams import DeviceStreams, StreamLane
from runtime.replay import stepper
from runtime.replay.backend import Backend, Watch
from tests.gpu.variants import VARIANTS, build_variant
from tests.support.planning.hardest_plans import everything_away, periodic
from tests.support.training.fake_streams import ComputeNeverWaits, NeverWaitsForCompute
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.recorded import assert_same, snapshot

STEPS = 3
CPU = torch.device("cpu")
GROWTH_TRACKER_BYTES = 4
"""A gradient scaler keeps one from step to step; a recording counts it from its only use on, which
is the last thing in a step."""
SLEEP_CYCLES = 500_000
"""A fraction of a millisecond on any GPU: longer than a kernel of these steps."""


def build(name: str, device: torch.device) -> Workload:
    return build_on(device, lambda: build_variant(VARIANTS[name]))


def hardest_plan(name: str, device: torch.device, boundary: Boundary) -> Plan:
    source = WorkloadSource(reference=name, settings=(), seed=0)
    profile = record_at_fixed_times(build(name, device), source=source)
    hardest = periodic if boundary is Boundary.PERIODIC else everything_away
    plan = hardest(profile)
    budget_bytes = plan.budget_bytes + GROWTH_TRACKER_BYTES
    return plan.model_copy(update={"budget_bytes": budget_bytes})


def stock(name: str, device: torch.device) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    workload = build(name, device)
    losses = [workload.step() for _ in range(STEPS)]
    return losses, snapshot(workload)


def replayed(
    name: str, device: torch.device, plan: Plan
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], Replay]:
    workload = build(name, device)
    losses = []
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(STEPS):
            with attached.step():
                loss = workload.step()
            losses.append(loss.clone())
            # The next step was recorded without it.
            del loss
    return losses, snapshot(workload), attached


def assert_bit_equal(name: str, device: torch.device, plan: Plan) -> None:
    losses, numbers = stock(name, device)
    found, found_numbers, attached = replayed(name, device, plan)
    assert [step.fallback for step in attached.steps] == [None] * STEPS
    assert all(torch.equal(a, b) for a, b in zip(losses, found, strict=True))
    assert_same(numbers, found_numbers)


@pytest.mark.parametrize("boundary", list(Boundary))
@pytest.mark.parametrize("name", VARIANTS)
def test_on_the_cpu_every_variant_is_bit_equal(name: str, boundary: Boundary) -> None:
    plan = hardest_plan(name, CPU, boundary)
    assert plan.swaps
    assert_bit_equal(name, CPU, plan)


def gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


class SlowCopies(DeviceStreams):
    """Streams on which every copy begins late and ends late."""

    def copy(
        self,
        stream: torch.cuda.Stream,
        pieces: Sequence[Piece],
        direction: Direction,
        engine: CopyMethod,
    ) -> None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP_CYCLES)
        super().copy(stream, pieces, direction, engine)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP_CYCLES)


class SlowCompute(TorchDispatchMode):
    """Lets the device fall behind the host: every few ops compute sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self._ops = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._ops += 1
        if self._ops % 7 == 0:
            torch.cuda._sleep(SLEEP_CYCLES)
        return func(*args, **(kwargs or {}))


LaneMaker = Callable[[DeviceStreams, Direction], StreamLane]


def use_streams(
    monkeypatch: pytest.MonkeyPatch,
    streams: DeviceStreams,
    make_lane: LaneMaker = StreamLane,
) -> None:
    """Has every replay use these streams."""

    def backend(plan: Plan, device: torch.device, *_: object) -> Backend:
        return Backend(
            d2h=make_lane(streams, Direction.D2H),
            h2d=make_lane(streams, Direction.H2D),
            pool=PinnedHostPool(plan.host_pool_bytes, device),
            watch=Watch.UNTIL_REPLAYED,
            budget_bytes=None,
            streams=streams,
        )

    monkeypatch.setattr(stepper, "backend_for", backend)


@pytest.mark.gpu
@pytest.mark.parametrize("boundary", list(Boundary))
@pytest.mark.parametrize("name", VARIANTS)
def test_on_a_gpu_every_variant_is_bit_equal(name: str, boundary: Boundary) -> None:
    assert_bit_equal(name, gpu(), hardest_plan(name, gpu(), boundary))


@pytest.mark.gpu
@pytest.mark.parametrize("boundary", list(Boundary))
@pytest.mark.parametrize("name", ["plain", "accumulated", "all at once"])
def test_late_copies_change_no_number(
    monkeypatch: pytest.MonkeyPatch, name: str, boundary: Boundary
) -> None:
    """Compute reaches every release and await long before its copy has ended."""
    plan = hardest_plan(name, gpu(), boundary)
    use_streams(monkeypatch, SlowCopies(gpu()))
    assert_bit_equal(name, gpu(), plan)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain", "accumulated", "all at once"])
def test_late_compute_changes_no_number(name: str) -> None:
    """Copies are issued long before what they read has been computed."""
    plan = hardest_plan(name, gpu(), Boundary.RESIDENT)
    with SlowCompute():
        assert_bit_equal(name, gpu(), plan)


@pytest.mark.gpu
def test_compute_may_be_on_a_stream_of_its_own() -> None:
    plan = hardest_plan("plain", gpu(), Boundary.PERIODIC)
    losses, numbers = stock("plain", gpu())
    with torch.cuda.stream(torch.cuda.Stream()):
        found, found_numbers, _ = replayed("plain", gpu(), plan)
        torch.cuda.current_stream().synchronize()
    assert all(torch.equal(a, b) for a, b in zip(losses, found, strict=True))
    assert_same(numbers, found_numbers)


@pytest.mark.gpu
def test_a_missing_wait_of_compute_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: compute does not wait for copies back, which are late."""
    plan = hardest_plan("plain", gpu(), Boundary.RESIDENT)

    def make_lane(streams: DeviceStreams, direction: Direction) -> StreamLane:
        faulty = direction is Direction.H2D
        return (ComputeNeverWaits if faulty else StreamLane)(streams, direction)

    use_streams(monkeypatch, SlowCopies(gpu()), make_lane)
    assert_numbers_differ(plan)


@pytest.mark.gpu
def test_a_missing_wait_of_a_lane_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: copies to the host do not wait for compute, which is late."""
    plan = hardest_plan("plain", gpu(), Boundary.RESIDENT)

    def make_lane(streams: DeviceStreams, direction: Direction) -> StreamLane:
        faulty = direction is Direction.D2H
        return (NeverWaitsForCompute if faulty else StreamLane)(streams, direction)

    use_streams(monkeypatch, DeviceStreams(gpu()), make_lane)
    with SlowCompute():
        assert_numbers_differ(plan)


def assert_numbers_differ(plan: Plan) -> None:
    _, numbers = stock("plain", gpu())
    _, found, _ = replayed("plain", gpu(), plan)
    with pytest.raises(AssertionError):
        assert_same(numbers, found)
