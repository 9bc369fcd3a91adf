"""The order of streams, proved on a fake device with real training steps.

A storage's bytes may be read by a lane while compute hands the same block to somebody else, or be
read by compute before the lane has filled them: on a GPU both give wrong numbers now and then. Here
the copies happen at once, so numbers cannot go wrong; vector clocks say whether they could have.
"""

from collections.abc import Callable

import pytest
import torch

from runtime import Replay, replay
from runtime.accountant import Accountant
from runtime.backend import Backend, Watch
from runtime.cuda_lanes import StreamCopy, StreamLane
from runtime.host_pool import HostPool, HostStretch
from runtime.lanes import Direction
from tests.fake_streams import COMPUTE, ComputeLog, FakeStreams, logging_resizes
from tests.training import BUILDERS, assert_same, everything_away_plan, snapshot

LaneMaker = Callable[[FakeStreams, Direction], StreamLane]


def train(
    monkeypatch: pytest.MonkeyPatch, name: str, make_lane: LaneMaker = StreamLane, steps: int = 2
) -> tuple[FakeStreams, dict[str, torch.Tensor], Replay]:
    """Trains under the hardest plan with lanes on a fake device."""
    streams = FakeStreams()
    plan = everything_away_plan(name)
    backend = Backend(
        d2h=make_lane(streams, Direction.D2H),
        h2d=make_lane(streams, Direction.H2D),
        pool=HostPool(plan.host_pool_bytes),
        watch=Watch.EVERY_STEP,
        budget_bytes=plan.budget_bytes,
    )
    monkeypatch.setattr(replay, "backend_for", lambda _: backend)
    for method, what in (("give_back", "release"), ("take", "swap-in")):
        logged = logging_resizes(streams, getattr(Accountant, method), what)
        monkeypatch.setattr(Accountant, method, logged)
    workload = BUILDERS[name]()
    with Replay(plan, workload.model, workload.optimizer) as attached:
        for _ in range(steps):
            with attached.step() as statistics, ComputeLog(streams):
                workload.step()
            assert statistics.fallback is None
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


def test_one_swap_is_this_row_of_stream_operations(monkeypatch: pytest.MonkeyPatch) -> None:
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


class NeverWaitsForCompute(StreamLane):
    """Planted fault: a copy starts before compute has finished with the bytes."""

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> StreamCopy:
        self._device.copy(self._stream, storage, host, self._direction)
        return StreamCopy(self._device, self._device.record(self._stream), storage, host)


class ComputeNeverWaits(StreamLane):
    """Planted fault: compute goes on before the copy has ended."""

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> StreamCopy:
        copy = super().issue(storage, host)
        copy._ended = None
        return copy


class RecordsTooEarly(StreamLane):
    """Planted fault: the event stands before the copy instead of after it."""

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> StreamCopy:
        before = self._device.record(self._device.compute_stream())
        self._device.wait(self._stream, before)
        early = self._device.record(self._stream)
        self._device.copy(self._stream, storage, host, self._direction)
        return StreamCopy(self._device, early, storage, host)


@pytest.mark.parametrize("faulty", [NeverWaitsForCompute, ComputeNeverWaits, RecordsTooEarly])
@pytest.mark.parametrize("direction", list(Direction))
def test_a_missing_wait_is_caught(
    monkeypatch: pytest.MonkeyPatch, faulty: type[StreamLane], direction: Direction
) -> None:
    def make_lane(streams: FakeStreams, towards: Direction) -> StreamLane:
        return (faulty if towards is direction else StreamLane)(streams, towards)

    streams, _, _ = train(monkeypatch, "unet3d", make_lane, steps=1)
    assert any(direction.value in race for race in streams.races)
