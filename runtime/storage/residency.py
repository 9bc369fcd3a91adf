"""Where a storage's bytes are now, and the seven moves between those places.

            swap_out            release           swap_in             arrive
  RESIDENT ----------> LEAVING ---------> AWAY -----------> RETURNING --------> RESIDENT
     |                 (D2H in flight)     ^ (no device bytes) (H2D in flight)
     +-------------------------------------+
            drop, if the host copy of an earlier swap is still true

            discard           refill
  RESIDENT ----------> DROPPED ---------> RESIDENT
                          (no bytes anywhere: a recipe makes them again, `runtime.recompute`)

A storage is emptied and refilled in place: `resize_(0)` gives the bytes back, `resize_(n)` takes
them again. Every tensor, view and graph that refers to the storage stays valid; between the two
nothing may read it.

[Note: sealed storages] An emptied storage is sealed, so that reading it is an error instead of the
end of the process. Torch has this for memory that CUDA graphs have taken back, in builds with CUDA
only. There it holds for every thread and every caller. In other builds there is no such thing, and
nothing is done; nor in torch 2.11, where a seal cannot be taken off again.
"""

import weakref
from dataclasses import dataclass, replace
from enum import Enum

import torch

from profiles.hooks.plain_tensors import is_movable
from profiles.schema.errors import SwapplanError
from profiles.schema.link import CopyMethod, host_size_bytes
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import CopyInFlight, CopyLane
from runtime.storage.accountant import Accountant
from runtime.storage.hand_over import hand_over
from runtime.storage.write_marks import take_off

SEALED = (
    "This tensor's bytes are not on the device: swapplan has moved or dropped them, and it was "
    "read where swapplan could not see it. Read it inside the step that was recorded, or from the "
    "thread that trains, or close the replay first."
)
LENT = "the memory of {} can no longer be resized"


class UnmovableError(Exception):
    """A storage is not as the plan expects; the step must fall back to resident."""


class CopyFailedError(SwapplanError):
    """Bytes could not be copied back to the device; they are still in host memory."""


class Residency(Enum):
    """Where a storage is. Device bytes are allocated in all states but AWAY and DROPPED."""

    RESIDENT = "resident"
    LEAVING = "leaving"
    AWAY = "away"
    RETURNING = "returning"
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """All that is known of where a storage's bytes are.

    Attributes:
        residency: Where they are.
        copy: The copy under way, while there is one. Waiting for it twice does no harm.
        host: The host memory of the last swap.
        host_is_true: Whether that holds the bytes a resident storage has now.
        engine: What carries them both ways.
        held: The storage, while a copy back may have been issued that is not known yet: the block
            that it writes to must not be given to another.
    """

    residency: Residency = Residency.RESIDENT
    copy: CopyInFlight | None = None
    host: HostStretch | None = None
    host_is_true: bool = False
    engine: CopyMethod = CopyMethod.DMA
    held: torch.UntypedStorage | None = None


_RESIDENT = _State()
_DROPPED = _State(residency=Residency.DROPPED)


class TrackedStorage:
    """One storage that the plan moves.

    It never keeps the storage alive: a graph that dies takes its storages along, and there is
    nothing to bring back. Only a copy in flight holds on to it.

    [Note: one assignment] An interrupt may come between any two instructions, so the whole state
    is one value, and each move assigns it once, where both what it says and what comes next can be
    recovered from: `restore` need not know how far a move had come. A storage that is LEAVING has
    its bytes on the device until its copy has been waited for; one that is AWAY has them in host
    memory, whether its device bytes have been given back already, or have been taken again and not
    been filled. Only a copy issued just before the interrupt is not known: the same bytes are then
    copied once more, on a lane that keeps the order.

    Attributes:
        name: What it is called where something is said about it.
        size_bytes: How many bytes it has.
        cdata: Its address, by which ops and modes know it.
        overrun_us: How much longer its copies took than the link would have.
    """

    def __init__(
        self,
        storage: torch.UntypedStorage,
        accountant: Accountant,
        name: str = "a storage",
    ) -> None:
        self.name = name
        self.size_bytes = storage.nbytes()
        self.overrun_us = 0.0
        self.cdata = storage._cdata
        self._storage = weakref.ref(storage)
        self._accountant = accountant
        self._guarded = accountant.guarded
        self._state = _RESIDENT

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        """Whether this is the record of that storage, and the storage is alive."""
        return storage is not None and self._storage() is storage

    @property
    def residency(self) -> Residency:
        """Where the bytes are."""
        return self._state.residency

    @property
    def storage(self) -> torch.UntypedStorage | None:
        """The storage, unless it has been freed."""
        return self._storage()

    @property
    def is_lent(self) -> bool:
        """Whether it is alive, and its memory must not be moved."""
        storage = self._storage()
        return storage is not None and not is_movable(storage)

    @property
    def has_copy(self) -> bool:
        """Whether the host memory of its last swap still holds the bytes it has now."""
        return self._state.host_is_true

    @property
    def host(self) -> HostStretch | None:
        """The host memory of its last swap; None before the first."""
        return self._state.host

    def keep_copy(self) -> None:
        """The host memory it has just come back from holds its bytes until it is written."""
        self._expect(Residency.RESIDENT)
        self._guarded.expect_no_write(self)
        self._state = replace(self._state, host_is_true=True)

    def forget_copy(self) -> None:
        """The host copy is no longer true, or no longer needed."""
        if self._state.host_is_true:
            self._state = replace(self._state, host_is_true=False)
        self._guarded.expect_write(self)
        take_off(self._storage())

    def swap_out(
        self, lane: CopyLane, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> None:
        """Issues the copy to the host; the same engine will carry it back."""
        storage = self._movable(host, engine)
        self.forget_copy()
        self._guarded.forbid(self)
        copy = lane.issue(storage, host, engine)
        self._state = _State(residency=Residency.LEAVING, copy=copy, host=host, engine=engine)

    def drop(self) -> None:
        """Gives the device bytes back with no copy: that on the host is true."""
        state = self._state
        assert state.host is not None
        assert state.host_is_true
        storage = self._movable(state.host, state.engine)
        self._guarded.forbid(self)
        self._state = replace(state, residency=Residency.AWAY)
        self._empty(storage)

    def discard(self) -> None:
        """Gives the device bytes back with no copy; what can make them again has been kept.

        Raises:
            UnmovableError: It is gone, or its memory cannot be given back.
        """
        self._expect(Residency.RESIDENT)
        storage = self._alive()
        if not is_movable(storage):
            raise UnmovableError(LENT.format(self.name))
        self.forget_copy()
        self._guarded.forbid(self)
        self._state = _DROPPED
        self._empty(storage)

    def refill(self, fresh: torch.UntypedStorage) -> None:
        """Takes over the memory of a storage that holds the bytes it had."""
        self._expect(Residency.DROPPED)
        storage = self._alive()
        if fresh.nbytes() != self.size_bytes:
            raise UnmovableError(
                f"the recipe of {self.name} makes {fresh.nbytes()} bytes of {self.size_bytes}"
            )
        _unseal(storage)
        hand_over(fresh, storage)
        self._accountant.hand_over(fresh, storage)
        self._state = _RESIDENT
        self._guarded.allow(self)

    def wait(self) -> float:
        """Waits for the copy under way, if there is one; returns us waited. It changes no state."""
        return 0.0 if self._state.copy is None else self._wait()[0]

    def release(self) -> float:
        """Waits for the copy to the host, then gives the device bytes back; returns us waited.

        Raises:
            UnmovableError: The host does not hold what the device does, or the device bytes cannot
                be given back; the storage stays.
        """
        self._expect(Residency.LEAVING)
        waited_us, copy = self._wait()
        storage = self._storage()
        fault = self._why_it_stays(storage, copy)
        if fault is not None:
            self._state = _RESIDENT
            self._guarded.allow(self)
            raise UnmovableError(fault)
        self._state = replace(self._state, residency=Residency.AWAY, copy=None)
        if storage is not None:
            self._empty(storage)
        return waited_us

    def swap_in(self, lane: CopyLane) -> None:
        """Takes device bytes again and issues the copy back.

        Raises:
            torch.OutOfMemoryError: The device has no room.
        """
        self._expect(Residency.AWAY)
        storage, away = self._alive(), self._state
        assert away.host is not None
        self._accountant.take(storage, self.size_bytes)
        _unseal(storage)
        try:
            if storage.nbytes() != self.size_bytes:
                # Not if it has been done, for torch would move to another block, and a copy that an
                # interrupt kept from being known may be writing to this one.
                storage.resize_(self.size_bytes)
        except torch.OutOfMemoryError:
            self._accountant.give_back(storage)
            _seal(storage)
            raise
        self._state = replace(away, held=storage)
        copy = lane.issue(storage, away.host, away.engine)
        self._state = replace(away, residency=Residency.RETURNING, copy=copy, held=None)

    def arrive(self) -> float:
        """Waits for the copy back; the storage may be used again. Returns us waited.

        Raises:
            UnmovableError: The copy failed. The bytes are still in host memory.
        """
        self._expect(Residency.RETURNING)
        waited_us, copy = self._wait()
        if copy.fault is not None:
            self._state = replace(self._state, residency=Residency.AWAY, copy=None)
            raise UnmovableError(f"the copy back of {self.name} failed ({_in_words(copy.fault)})")
        self._state = replace(self._state, residency=Residency.RESIDENT, copy=None)
        self._guarded.allow(self)
        return waited_us

    def restore(self, lane: CopyLane) -> None:
        """Brings the bytes back from wherever they are, waits for it, and forgets the host copy.

        It may be called again whatever became of it. What is DROPPED stays so, as long as it is
        alive: its recipe brings it back.

        Raises:
            torch.OutOfMemoryError: The device has no room.
            CopyFailedError: The bytes could not be copied back, and are in host memory.
        """
        if self.residency is Residency.LEAVING:
            self._wait()
            self._state = _RESIDENT
        if self.residency is Residency.RETURNING:
            _, copy = self._wait()
            # What failed is tried once more.
            residency = Residency.RESIDENT if copy.fault is None else Residency.AWAY
            self._state = replace(self._state, residency=residency, copy=None)
        if self.residency is Residency.DROPPED:
            if self._storage() is not None:
                return
            self._state = _RESIDENT
        if self.residency is Residency.AWAY and self._storage() is not None:
            self.swap_in(lane)
            try:
                self.arrive()
            except UnmovableError as error:
                raise CopyFailedError(
                    f"A storage of {self.size_bytes} bytes is still in host memory: {error}. Close "
                    "the replay again to try once more."
                ) from error
        self._guarded.allow(self)
        self.forget_copy()

    def take_overrun_us(self) -> float:
        """Returns how much longer its copies took than the link would have, since last asked."""
        overrun_us, self.overrun_us = self.overrun_us, 0.0
        return overrun_us

    def _wait(self) -> tuple[float, CopyInFlight]:
        copy = self._state.copy
        assert copy is not None
        waited_us = copy.wait()
        self.overrun_us += copy.overrun_us
        copy.overrun_us = 0.0
        return waited_us, copy

    def _movable(self, host: HostStretch, engine: CopyMethod) -> torch.UntypedStorage:
        self._expect(Residency.RESIDENT)
        storage = self._alive()
        host_bytes = host_size_bytes(engine, storage.nbytes())
        if not is_movable(storage) or host_bytes != host.size_bytes:
            raise UnmovableError(LENT.format(self.name))
        return storage

    def _why_it_stays(self, storage: torch.UntypedStorage | None, copy: CopyInFlight) -> str | None:
        """Says why it cannot be emptied though its copy to the host has ended; None if it can."""
        if copy.fault is not None:
            return f"the copy of {self.name} to the host failed ({_in_words(copy.fault)})"
        if copy.inexact:
            return f"{self.name} holds bytes that are no bools, so it cannot wait as bits"
        return None if storage is None or is_movable(storage) else LENT.format(self.name)

    def _empty(self, storage: torch.UntypedStorage) -> None:
        take_off(storage)
        storage.resize_(0)
        _seal(storage)
        self._accountant.give_back(storage)

    def _alive(self) -> torch.UntypedStorage:
        storage = self._storage()
        if storage is None:
            raise UnmovableError(f"{self.name} was freed before the plan was done with it")
        return storage

    def _expect(self, residency: Residency) -> None:
        if self.residency is not residency:
            raise UnmovableError(
                f"{self.name} is {self.residency.value}, expected {residency.value}"
            )


def _in_words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"


def _seal(storage: torch.UntypedStorage) -> None:
    """From now on access to the storage's memory raises RuntimeError, if torch can do that."""
    if _can_seal():
        torch._C._set_storage_data_ptr_access_error_msg(storage._cdata, SEALED)


def _unseal(storage: torch.UntypedStorage) -> None:
    """The storage's memory may be accessed again."""
    if _can_seal():
        torch._C._clear_storage_data_ptr_access_error_msg(storage._cdata)


def _can_seal() -> bool:
    return hasattr(torch._C, "_set_storage_data_ptr_access_error_msg") and hasattr(
        torch._C, "_clear_storage_data_ptr_access_error_msg"
    )
