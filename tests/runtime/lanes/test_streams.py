"""The order of streams, proved on a fake device with real training steps.

A storage's bytes may be read by a lane while compute hands the same block to somebody else, or be
read by compute before the lane has filled them: on a GPU both give wrong numbers now and then. Here
the copies happen at once, so numbers cannot go wrong; vector clocks say whether they could have.
"""

from collections.abc import Callable

import pytest
import torch

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from runtime import Replay
from runtime.host.host_pool import HostPool
from runtime.lanes.streams import Launch, StreamLane
from tests.support.planning.hardest_plans import with_swaps
from tests.support.training.fake_streams import (
    COMPUTE,
    ComputeLog,
    ComputeNeverWaits,
    FakeStreams,
    LaneMaker,
    NeverWaitsForCompute,
    put_on_streams,
)
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import (
    assert_same,
    everything_away_plan,
    leaving_plan,
    periodic_plan,
    returning_plan,
    snapshot,
)


def train(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make_lane: LaneMaker = StreamLane,
    steps: int = 2,
    plan: Plan | None = None,
    between: Callable[[Workload], None] = lambda _: None,
) -> tuple[FakeStreams, dict[str, torch.Tensor], Replay]:
    """Trains under the hardest plan, or another one, with lanes on a fake device."""
    plan = plan or everything_away_plan(name)
    streams = put_on_streams(monkeypatch, plan, make_lane)
    workload = BUILDERS[name]()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(steps):
            with attached.step() as statistics, ComputeLog(streams):
                workload.step()
            assert statistics.fallback is None
            with ComputeLog(streams):
                between(workload)
    return streams, snapshot(workload), attached


@pytest.mark.parametrize("name", ["unet3d", "gpt2", "accumulating", "kept_gradients"])
def test_no_access_races_another(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    streams, numbers, attached = train(monkeypatch, name)
    assert streams.races == []
    swaps = len(everything_away_plan(name).swaps)
    copies = [entry for entry in streams.log if entry[0] in ("D2H", "H2D")]
    assert len(copies) >= 2 * swaps
    plain = BUILDERS[name]()
    for _ in attached.steps:
        plain.step()
    assert_same(snapshot(plain), numbers)


def test_the_host_never_waits_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, _, attached = train(monkeypatch, "unet3d")
    kinds = [entry[0] for entry in streams.log]
    assert kinds.count("finish") == 2, "one for each lane, when the replay is closed"
    assert kinds[-2:] == ["finish", "finish"]
    assert all(step.stall_us == 0 for step in attached.steps)


def test_one_swap_is_this_row_of_stream_operations() -> None:
    streams = FakeStreams()
    pool = HostPool(64)
    lane = StreamLane(streams, Direction.D2H)
    storage = torch.zeros(64, dtype=torch.uint8).untyped_storage()
    copy = lane.issue(storage, pool.stretch(0, 64))
    assert copy.wait() == 0
    copy.wait()
    lane.close()
    assert streams.log == [
        ("record", COMPUTE),
        ("wait", 1),
        ("D2H", 1),
        ("record", 1),
        ("wait", COMPUTE),
        ("finish", 1),
    ]


class RecordsTooEarly(StreamLane):
    """Planted fault: the event stands before the copy instead of after it."""

    def _send(self, launch: Launch) -> None:
        before = self._device.record(COMPUTE)
        self._device.wait(self._stream, before)
        launch.ended = self._device.record(self._stream)
        self._copy(launch)


@pytest.mark.parametrize("faulty", [NeverWaitsForCompute, ComputeNeverWaits, RecordsTooEarly])
@pytest.mark.parametrize("direction", list(Direction))
def test_a_missing_wait_is_caught(
    monkeypatch: pytest.MonkeyPatch, faulty: type[StreamLane], direction: Direction
) -> None:
    def make_lane(streams: FakeStreams, towards: Direction) -> StreamLane:
        return (faulty if towards is direction else StreamLane)(streams, towards)

    streams, _, _ = train(monkeypatch, "unet3d", make_lane, steps=1)
    assert any(direction.value in race for race in streams.races)


@pytest.mark.parametrize("turned", [periodic_plan, leaving_plan, returning_plan])
@pytest.mark.parametrize("name", ["unet3d", "kept_gradients"])
def test_no_access_races_another_across_steps(
    monkeypatch: pytest.MonkeyPatch, name: str, turned: Callable[[str], Plan]
) -> None:
    plan = turned(name)
    streams, numbers, attached = train(monkeypatch, name, steps=3, plan=plan)
    assert streams.races == []
    assert attached.steps[2].d2h_bytes == plan.certificate.d2h_bytes
    assert attached.steps[2].prologue_bytes == 0
    plain = BUILDERS[name]()
    for _ in attached.steps:
        plain.step()
    assert_same(snapshot(plain), numbers)


def test_what_is_touched_between_steps_races_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def halve(workload: Workload) -> None:
        with torch.no_grad():
            for parameter in workload.model.parameters():
                parameter.mul_(0.5)

    for turned in (periodic_plan, leaving_plan, returning_plan):
        with monkeypatch.context() as patch:
            streams, numbers, attached = train(
                patch, "unet3d", steps=3, plan=turned("unet3d"), between=halve
            )
        assert streams.races == []
        # What would be on its way back when the second step begins is there after the first.
        assert attached.boundary_restores == (2 if turned is returning_plan else 3)
        plain = BUILDERS["unet3d"]()
        for _ in attached.steps:
            plain.step()
            halve(plain)
        assert_same(snapshot(plain), numbers)


@pytest.mark.parametrize("faulty", [NeverWaitsForCompute, ComputeNeverWaits, RecordsTooEarly])
@pytest.mark.parametrize(
    ("direction", "turned"), [(Direction.D2H, leaving_plan), (Direction.H2D, returning_plan)]
)
def test_a_missing_wait_across_steps_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    faulty: type[StreamLane],
    direction: Direction,
    turned: Callable[[str], Plan],
) -> None:
    """The plan has no trip but those that wrap: what one step issues, the next one waits for."""

    def make_lane(streams: FakeStreams, towards: Direction) -> StreamLane:
        return (faulty if towards is direction else StreamLane)(streams, towards)

    plan = turned("unet3d")
    plan = with_swaps(plan, [swap for swap in plan.swaps if swap.wraps])
    streams, _, _ = train(monkeypatch, "unet3d", make_lane, steps=2, plan=plan)
    assert any(direction.value in race for race in streams.races)


class KnowsOneStream(FakeStreams):
    """Planted fault: the lanes follow the stream that an anchor is reached on, and no other."""

    def compute_streams(self) -> tuple[int, ...]:
        return (self.current,)


@pytest.mark.parametrize(
    ("kind", "is_safe"), [(FakeStreams, True), (KnowsOneStream, False)], ids=["all", "one"]
)
def test_lanes_follow_every_stream_that_compute_is_on(
    kind: type[FakeStreams], is_safe: bool
) -> None:
    """A branch reads a storage on a stream of its own; the main stream gives it back.

    The block may go to whoever asks next, so the release must come after the branch's reading.
    """
    streams = kind()
    pool = HostPool(64)
    lane = StreamLane(streams, Direction.D2H)
    storage = torch.zeros(64, dtype=torch.uint8).untyped_storage()
    branch = streams.new_stream()
    streams.compute("made", storage, writes=True)
    made = streams.record(COMPUTE)
    streams.wait(branch, made)
    streams.current = branch
    streams.see_stream()
    streams.compute("read by the branch", storage, writes=False)
    streams.current = COMPUTE
    lane.issue(storage, pool.stretch(0, 64)).wait()
    streams.compute("release", storage, writes=True)
    assert (streams.races == []) == is_safe


def test_the_first_release_on_a_side_stream_orders_the_default_stream() -> None:
    """Parameters are made on the default stream, and their blocks go back to it."""
    streams = FakeStreams()
    side = streams.new_stream()
    pool = HostPool(64)
    lane = StreamLane(streams, Direction.D2H)
    storage = torch.zeros(64, dtype=torch.uint8).untyped_storage()
    streams.compute("made", storage, writes=True)
    made = streams.record(COMPUTE)
    streams.wait(side, made)
    streams.current = side
    lane.issue(storage, pool.stretch(0, 64)).wait()
    streams.access(COMPUTE, "the next owner", storage._cdata, 0, 1, writes=True)
    assert streams.races == []
