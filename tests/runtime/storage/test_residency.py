"""Where a storage's bytes are, on the emulated accelerator."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from planner.plan.lanes import Direction
from runtime.host.host_pool import HostPool
from runtime.lanes import emulated as lanes
from runtime.lanes.emulated import EmulatedLane
from runtime.lanes.lane import LaneClosedError
from runtime.proof.limited_device import LimitedEmulator, anonymous_bytes
from runtime.storage.accountant import Accountant
from runtime.storage.residency import CopyFailedError, Residency, TrackedStorage, UnmovableError
from tests.support.training.failing_copy import FailingCopy
from tests.support.training.fake_time import HeldTime, held_time

pytestmark = pytest.mark.cpu_only
"""The emulated accelerator's lanes wait for no stream of another device."""

MIB = 1 << 20
FAST = 100_000.0
CPU = torch.device("cpu")


@pytest.fixture(name="held")
def _held(monkeypatch: pytest.MonkeyPatch) -> HeldTime:
    return held_time(monkeypatch)


@pytest.fixture(name="d2h")
def _d2h() -> Iterator[EmulatedLane]:
    lane = EmulatedLane(Direction.D2H, FAST, 0.0)
    yield lane
    lane.close()


@pytest.fixture(name="h2d")
def _h2d() -> Iterator[EmulatedLane]:
    lane = EmulatedLane(Direction.H2D, FAST, 0.0)
    yield lane
    lane.close()


def test_a_copy_that_fails_ends_and_the_lane_goes_on(
    d2h: EmulatedLane, h2d: EmulatedLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_copy_bytes", FailingCopy(Direction.D2H, 1))
    pool = HostPool(MIB)
    values, tracked = tracked_storage()
    tracked.swap_out(d2h, pool.stretch(0, MIB))
    with pytest.raises(UnmovableError, match="the copy of a storage to the host failed"):
        tracked.release()
    assert tracked.residency is Residency.RESIDENT
    tracked.swap_out(d2h, pool.stretch(0, MIB))
    tracked.release()
    tracked.restore(h2d)
    assert torch.equal(values, torch.arange(MIB // 8))


@pytest.mark.parametrize("times", [1, 2])
def test_a_copy_back_that_fails_may_be_tried_again(
    d2h: EmulatedLane, h2d: EmulatedLane, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(lanes, "_copy_bytes", FailingCopy(Direction.H2D, times))
    values, tracked = tracked_storage()
    tracked.swap_out(d2h, HostPool(MIB).stretch(0, MIB))
    tracked.release()
    tracked.swap_in(h2d)
    with pytest.raises(UnmovableError, match="the copy back of a storage failed"):
        tracked.arrive()
    if times == 2:
        with pytest.raises(CopyFailedError, match="still in host memory"):
            tracked.restore(h2d)
    tracked.restore(h2d)
    assert torch.equal(values, torch.arange(MIB // 8))


def test_what_an_unknown_copy_may_be_writing_to_is_not_given_back(d2h: EmulatedLane) -> None:
    """An interrupt right after the copy back was issued: it is issued again, to the same block."""
    values, tracked = tracked_storage()
    tracked.swap_out(d2h, HostPool(MIB).stretch(0, MIB))
    tracked.release()
    lane, blocks = EmulatedLane(Direction.H2D, FAST, 0.0), []
    issue = lane.issue

    def issued_unknown(storage: torch.UntypedStorage, *args: Any) -> Any:
        copy = issue(storage, *args)
        blocks.append(storage.data_ptr())
        if len(blocks) == 1:
            raise KeyboardInterrupt
        return copy

    lane.issue = issued_unknown  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        tracked.swap_in(lane)
    assert tracked.residency is Residency.AWAY
    expected = torch.arange(MIB // 8)
    tracked.restore(lane)
    lane.close()
    assert blocks == [values.data_ptr()] * 2
    assert torch.equal(values, expected)


def test_a_closed_lane_takes_no_copies(d2h: EmulatedLane) -> None:
    d2h.close()
    values, tracked = tracked_storage()
    with pytest.raises(LaneClosedError):
        tracked.swap_out(d2h, HostPool(MIB).stretch(0, MIB))
    assert tracked.residency is Residency.RESIDENT
    assert torch.equal(values, torch.arange(MIB // 8))


def test_the_process_really_gives_memory_back(d2h: EmulatedLane, h2d: EmulatedLane) -> None:
    size_bytes = 128 * MIB
    pool = HostPool(size_bytes)
    values = torch.ones(size_bytes, dtype=torch.uint8)
    tracked = TrackedStorage(values.untyped_storage(), Accountant(CPU, None))
    LimitedEmulator().tidy()
    before_bytes = anonymous_bytes()
    tracked.swap_out(d2h, pool.stretch(0, size_bytes))
    tracked.release()
    # The C allocator may have placed it among smaller blocks, and keeps what is freed there.
    LimitedEmulator().tidy()
    # All of it or nothing: half is far from what anything else in the process takes or gives.
    assert before_bytes - anonymous_bytes() > 0.5 * size_bytes
    tracked.swap_in(h2d)
    tracked.arrive()
    assert before_bytes - anonymous_bytes() < 0.5 * size_bytes
    assert bool(values.all())


def tracked_storage() -> tuple[torch.Tensor, TrackedStorage]:
    values = torch.arange(MIB // 8)
    return values, TrackedStorage(values.untyped_storage(), Accountant(CPU, None))


def test_residency_goes_round(d2h: EmulatedLane, h2d: EmulatedLane) -> None:
    pool = HostPool(MIB)
    values, tracked = tracked_storage()
    view = values[7:9]
    seen = [tracked.residency]
    for move in (
        lambda: tracked.swap_out(d2h, pool.stretch(0, MIB)),
        tracked.release,
        lambda: tracked.swap_in(h2d),
        tracked.arrive,
    ):
        move()
        seen.append(tracked.residency)
    assert seen == [
        Residency.RESIDENT,
        Residency.LEAVING,
        Residency.AWAY,
        Residency.RETURNING,
        Residency.RESIDENT,
    ]
    assert view.tolist() == [7, 8], "views stay valid"


def test_a_host_copy_serves_until_the_storage_is_written(
    d2h: EmulatedLane, h2d: EmulatedLane
) -> None:
    pool = HostPool(MIB)
    accountant = Accountant(CPU, None)
    values = torch.arange(MIB // 8)
    tracked = TrackedStorage(values.untyped_storage(), accountant)
    tracked.swap_out(d2h, pool.stretch(0, MIB))
    tracked.release()
    tracked.swap_in(h2d)
    tracked.arrive()
    assert not tracked.has_copy, "nobody has said that it is kept"
    tracked.keep_copy()
    tracked.drop()
    assert tracked.residency is Residency.AWAY
    assert values.untyped_storage().nbytes() == 0
    tracked.swap_in(h2d)
    tracked.arrive()
    assert torch.equal(values, torch.arange(MIB // 8))
    with accountant:
        values.sum()
        assert tracked.has_copy
        values[3:5].add_(1)
    assert not tracked.has_copy
    tracked.keep_copy()
    tracked.drop()
    tracked.restore(h2d)
    assert not tracked.has_copy


def test_emptied_storages_are_sealed_where_torch_can(
    d2h: EmulatedLane, h2d: EmulatedLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds of torch with CUDA have these two functions; here they stand in for themselves."""
    calls: list[tuple[str, int, int]] = []
    values, tracked = tracked_storage()
    storage = values.untyped_storage()

    def seal(cdata: int, message: str) -> None:
        assert "swapplan" in message
        calls.append(("seal", cdata, storage.nbytes()))

    def unseal(cdata: int) -> None:
        calls.append(("unseal", cdata, storage.nbytes()))

    monkeypatch.setattr(torch._C, "_set_storage_data_ptr_access_error_msg", seal, raising=False)
    monkeypatch.setattr(torch._C, "_clear_storage_data_ptr_access_error_msg", unseal, raising=False)
    tracked.swap_out(d2h, HostPool(MIB).stretch(0, MIB))
    assert calls == []
    tracked.release()
    tracked.restore(h2d)
    assert calls == [("seal", storage._cdata, 0), ("unseal", storage._cdata, 0)]


def test_no_seal_is_put_on_that_cannot_be_taken_off(
    d2h: EmulatedLane, h2d: EmulatedLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in torch 2.11 with CUDA."""

    def seal(cdata: int, message: str) -> None:
        raise AssertionError("sealed")

    monkeypatch.setattr(torch._C, "_set_storage_data_ptr_access_error_msg", seal, raising=False)
    monkeypatch.delattr(torch._C, "_clear_storage_data_ptr_access_error_msg", raising=False)
    values, tracked = tracked_storage()
    tracked.swap_out(d2h, HostPool(MIB).stretch(0, MIB))
    tracked.release()
    tracked.restore(h2d)
    assert bool((values == torch.arange(MIB // 8)).all())


def test_moves_out_of_order_are_refused(d2h: EmulatedLane, h2d: EmulatedLane) -> None:
    pool = HostPool(MIB)
    _values, tracked = tracked_storage()
    for move in (tracked.release, tracked.arrive, lambda: tracked.swap_in(h2d)):
        with pytest.raises(UnmovableError, match="a storage is resident, expected"):
            move()
    tracked.swap_out(d2h, pool.stretch(0, MIB))
    with pytest.raises(UnmovableError, match="a storage is leaving, expected"):
        tracked.swap_out(d2h, pool.stretch(0, MIB))


@pytest.mark.parametrize("moves", [1, 2, 3, 4])
def test_restore_works_from_every_state(d2h: EmulatedLane, h2d: EmulatedLane, moves: int) -> None:
    pool = HostPool(MIB)
    values, tracked = tracked_storage()
    expected = values.clone()
    for move in (
        lambda: tracked.swap_out(d2h, pool.stretch(0, MIB)),
        tracked.release,
        lambda: tracked.swap_in(h2d),
        tracked.arrive,
    )[:moves]:
        move()
    tracked.restore(h2d)
    assert tracked.residency is Residency.RESIDENT
    assert torch.equal(values, expected)


def test_a_storage_that_dies_away_stays_dead(d2h: EmulatedLane, h2d: EmulatedLane) -> None:
    pool = HostPool(MIB)
    values, tracked = tracked_storage()
    gone = weakref.ref(values.untyped_storage())
    tracked.swap_out(d2h, pool.stretch(0, MIB))
    tracked.release()
    del values
    assert gone() is None, "tracking must not keep it alive"
    tracked.restore(h2d)


def test_a_storage_that_dies_in_flight_is_kept_until_the_copy_ends(held: HeldTime) -> None:
    lane = EmulatedLane(Direction.D2H, MIB / 1e5, 0.0)
    pool = HostPool(MIB)
    values, tracked = tracked_storage()
    gone = weakref.ref(values.untyped_storage())
    tracked.swap_out(lane, pool.stretch(0, MIB))
    del values
    assert gone() is not None
    held.pass_on()
    tracked.release()
    assert gone() is None
    lane.close()


def test_memory_that_cannot_be_resized_is_not_moved(d2h: EmulatedLane) -> None:
    values = torch.zeros(4)
    tracked = TrackedStorage(values.untyped_storage(), Accountant(CPU, None))
    values.numpy()
    with pytest.raises(UnmovableError, match="resized"):
        tracked.swap_out(d2h, HostPool(16).stretch(0, 16))
