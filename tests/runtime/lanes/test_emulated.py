"""The lanes of the emulated accelerator."""

import gc
import weakref

import pytest
import torch

from planner.plan.lanes import Direction
from runtime.host.host_pool import HostPool, HostStretch
from runtime.lanes.emulated import Copy, EmulatedLane
from tests.support.commands import PATIENCE_S
from tests.support.training.fake_time import HeldTime, held_time

MIB = 1 << 20
FAST = 100_000.0


@pytest.fixture(name="held")
def _held(monkeypatch: pytest.MonkeyPatch) -> HeldTime:
    return held_time(monkeypatch)


def issued(lane: EmulatedLane, storage: torch.UntypedStorage, host: HostStretch) -> Copy:
    copy = lane.issue(storage, host)
    assert isinstance(copy, Copy)
    return copy


def test_bytes_go_out_and_come_back() -> None:
    d2h, h2d = (EmulatedLane(direction, FAST, 0.0) for direction in Direction)
    pool = HostPool(3 * MIB)
    values = torch.randint(0, 256, (MIB,), dtype=torch.uint8)
    storage = values.clone().untyped_storage()
    d2h.issue(storage, pool.stretch(MIB, MIB)).wait()
    other = torch.zeros(MIB, dtype=torch.uint8)
    h2d.issue(other.untyped_storage(), pool.stretch(MIB, MIB)).wait()
    for lane in (d2h, h2d):
        lane.close()
    assert torch.equal(values, other)


def test_a_lane_takes_the_time_of_its_link(held: HeldTime) -> None:
    """Ten copies of 1 MiB at 100 MiB/s and 5 us each, one after the other."""
    lane = EmulatedLane(Direction.D2H, 100 * MIB / 1e6, 5.0)
    pool = HostPool(MIB)
    storage = torch.zeros(MIB, dtype=torch.uint8).untyped_storage()
    copies = [issued(lane, storage, pool.stretch(0, MIB)) for _ in range(10)]
    assert not any(copy.ended_ns for copy in copies), "issuing does not wait"
    held.pass_on()
    copies[-1].wait()
    copy_ns = 10_000_000 + 5_000
    assert [copy.ended_ns for copy in copies] == [copy_ns * (k + 1) for k in range(10)]
    assert [copy.overrun_us for copy in copies] == [0.0] * 10
    assert not any(copy.pieces for copy in copies), "an ended copy keeps nothing alive"
    lane.close()


def test_a_machine_slower_than_the_link_says_by_how_much(
    held: HeldTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes take 3 us where the link would take 1; the next copy begins when they are over."""
    monkeypatch.setattr("runtime.lanes.emulated.ctypes", SlowMemory(held, copy_ns=3000))
    lane = EmulatedLane(Direction.D2H, MIB, 0.0)
    storage = torch.zeros(MIB, dtype=torch.uint8).untyped_storage()
    pool = HostPool(MIB)
    copies = [issued(lane, storage, pool.stretch(0, MIB)) for _ in range(2)]
    lane.close()
    assert [copy.ended_ns for copy in copies] == [3000, 6000]
    assert [copy.overrun_us for copy in copies] == [2.0, 2.0]
    assert held.sleeps == 0


class SlowMemory:
    """Memory whose every copy takes the same time."""

    def __init__(self, held: HeldTime, copy_ns: int) -> None:
        self._held = held
        self._copy_ns = copy_ns

    def memmove(self, target: int, source: int, size_bytes: int) -> None:
        self._held.now_ns += self._copy_ns


def test_a_forgotten_lane_ends_its_thread() -> None:
    lane = EmulatedLane(Direction.D2H, FAST, 0.0)
    thread = lane._thread
    del lane
    gc.collect()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_a_pool_outlives_its_copies(held: HeldTime) -> None:
    """A replay that is dropped while a copy is in flight must not unmap what it writes to."""
    lane = EmulatedLane(Direction.D2H, 1000 * MIB / 1e6, 0.0)
    values = torch.ones(8 * MIB, dtype=torch.uint8)
    pool = HostPool(8 * MIB)
    slab = weakref.ref(pool)
    copies = [lane.issue(values.untyped_storage(), pool.stretch(0, 8 * MIB)) for _ in range(3)]
    del pool
    assert slab() is not None
    held.pass_on()
    copies[-1].wait()
    lane.close()
    assert slab() is None
