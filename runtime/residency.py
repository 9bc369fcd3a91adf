"""Where a storage's bytes are now, and the five moves between those places.

            swap_out            release           swap_in             arrive
  RESIDENT ----------> LEAVING ---------> AWAY -----------> RETURNING --------> RESIDENT
     |                 (D2H in flight)     ^ (no device bytes) (H2D in flight)
     +-------------------------------------+
            drop, if the host copy of an earlier trip is still true

A storage is emptied and refilled in place: `resize_(0)` gives the bytes back, `resize_(n)` takes
them again. Every tensor, view and graph that refers to the storage stays valid; between the two
nobody may read it.
"""

import weakref
from enum import Enum

import torch

from profiles.copy_engine import CopyEngine, host_size_bytes
from runtime.accountant import Accountant
from runtime.copying import CopyInFlight, CopyLane
from runtime.host_pool import HostStretch
from runtime.seal import seal, unseal
from runtime.write_marks import take_off


class Residency(Enum):
    """Where a storage is. Device bytes are allocated in all states but AWAY."""

    RESIDENT = "resident"
    LEAVING = "leaving"
    AWAY = "away"
    RETURNING = "returning"


class TrackedStorage:
    """One storage that the plan moves.

    It never keeps the storage alive: a graph that dies takes its storages along, and there is
    nothing to bring back. Only a copy in flight holds on to it.

    Attributes:
        residency: Where the bytes are.
        size_bytes: Their number.
        overrun_us: How much longer its copies took than the link would have.
    """

    def __init__(self, storage: torch.UntypedStorage, accountant: Accountant) -> None:
        self.residency = Residency.RESIDENT
        self.size_bytes = storage.nbytes()
        self.overrun_us = 0.0
        self._cdata = storage._cdata
        self._storage = weakref.ref(storage)
        self._accountant = accountant
        self._host: HostStretch | None = None
        self._host_is_true = False
        self._engine = CopyEngine.COPY_ENGINE
        self._copy: CopyInFlight | None = None

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        """Whether this is the record of the storage that somebody holds now, if any."""
        return storage is not None and self._storage() is storage

    @property
    def storage(self) -> torch.UntypedStorage | None:
        """The storage, unless it has been freed."""
        return self._storage()

    @property
    def cdata(self) -> int:
        """The storage's address, by which ops and modes know it."""
        return self._cdata

    @property
    def has_copy(self) -> bool:
        """Whether the host memory of its last trip still holds the bytes it has now."""
        return self._host_is_true

    @property
    def host_end_bytes(self) -> int:
        """Where in the host pool the memory of its last trip ends; 0 before the first."""
        return 0 if self._host is None else self._host.offset_bytes + self._host.size_bytes

    def keep_copy(self) -> None:
        """The host memory it has just come back from holds its bytes until somebody writes it."""
        self._expect(Residency.RESIDENT)
        self._host_is_true = True
        self._accountant.expect_no_write(self)

    def forget_copy(self) -> None:
        """The host copy is no longer true, or no longer needed."""
        self._host_is_true = False
        self._accountant.expect_write(self)
        take_off(self._storage())

    def swap_out(
        self,
        lane: CopyLane,
        host: HostStretch,
        engine: CopyEngine = CopyEngine.COPY_ENGINE,
    ) -> None:
        """Issues the copy to the host; the same engine will carry it back."""
        self._engine = engine
        storage = self._movable(host)
        self._accountant.forbid(storage, self)
        self._host = host
        self._copy = lane.issue(storage, host, engine)
        self.forget_copy()
        self.residency = Residency.LEAVING

    def drop(self) -> None:
        """Gives the device bytes back with no copy: that on the host is true."""
        assert self._host is not None
        assert self._host_is_true
        storage = self._movable(self._host)
        self._accountant.forbid(storage, self)
        self._empty(storage)

    def release(self) -> float:
        """Waits for the copy to the host, then gives the device bytes back.

        Returns:
            The time waited, in microseconds.

        Raises:
            UnmovableError: The host does not hold what the device does; the storage stays.
        """
        self._expect(Residency.LEAVING)
        copy = self._copy
        waited_us = self._wait()
        if copy is not None and copy.inexact:
            self.residency = Residency.RESIDENT
            self._accountant.allow(self)
            raise UnmovableError("it holds bytes that are no bools, so it cannot wait as bits")
        storage = self._storage()
        if storage is not None:
            self._empty(storage)
        self.residency = Residency.AWAY
        return waited_us

    def swap_in(self, lane: CopyLane) -> None:
        """Takes device bytes again and issues the copy back.

        Raises:
            torch.OutOfMemoryError: The device has no room.
        """
        self._expect(Residency.AWAY)
        storage = self._alive()
        self._accountant.take(storage, self.size_bytes)
        unseal(storage)
        try:
            storage.resize_(self.size_bytes)
        except torch.OutOfMemoryError:
            self._accountant.give_back(storage)
            seal(storage)
            raise
        assert self._host is not None
        self._copy = lane.issue(storage, self._host, self._engine)
        self.residency = Residency.RETURNING

    def arrive(self) -> float:
        """Waits for the copy back; the storage may be used again.

        Returns:
            The time waited, in microseconds.
        """
        self._expect(Residency.RETURNING)
        waited_us = self._wait()
        self.residency = Residency.RESIDENT
        self._accountant.allow(self)
        return waited_us

    def restore(self, lane: CopyLane) -> None:
        """Brings the bytes back from wherever they are, waits for it, and forgets the host copy."""
        if self.residency is Residency.LEAVING:
            self._wait()
            self.residency = Residency.RESIDENT
        if self.residency is Residency.AWAY and self._storage() is not None:
            self.swap_in(lane)
        if self.residency is Residency.RETURNING:
            self.arrive()
        self._accountant.allow(self)
        self.forget_copy()

    def take_overrun_us(self) -> float:
        """Returns how much longer its copies took than the link would have, since last asked."""
        overrun_us, self.overrun_us = self.overrun_us, 0.0
        return overrun_us

    def _wait(self) -> float:
        assert self._copy is not None
        waited_us = self._copy.wait()
        self.overrun_us += self._copy.overrun_us
        self._copy = None
        return waited_us

    def _movable(self, host: HostStretch) -> torch.UntypedStorage:
        self._expect(Residency.RESIDENT)
        storage = self._alive()
        host_bytes = host_size_bytes(self._engine, storage.nbytes())
        if not storage.resizable() or host_bytes != host.size_bytes:
            raise UnmovableError("its memory can no longer be resized")
        return storage

    def _empty(self, storage: torch.UntypedStorage) -> None:
        take_off(storage)
        storage.resize_(0)
        seal(storage)
        self._accountant.give_back(storage)
        self.residency = Residency.AWAY

    def _alive(self) -> torch.UntypedStorage:
        storage = self._storage()
        if storage is None:
            raise UnmovableError("it was freed before the plan was done with it")
        return storage

    def _expect(self, residency: Residency) -> None:
        if self.residency is not residency:
            raise UnmovableError(f"it is {self.residency.value}, not {residency.value}")


class UnmovableError(Exception):
    """A storage is not as the plan expects; the step must fall back to resident."""
