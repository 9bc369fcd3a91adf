"""Which writes of moved storages make their host copies untrue.

Two things show a write: autograd's count of a tensor's writes, whatever thread makes them, and a
mark on the storage (`runtime.storage.write_marks`). Both are looked at when a host copy is about to
be all there is.
"""

from itertools import count

import torch

from runtime.replay.lookup import storage_of
from runtime.replay.swap_index import SwapIndex
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage
from runtime.storage.write_marks import WriteMarks

_UNLIKE_ANY = count(-1, -1)
"""Counts that no tensor has."""


class SeenWrites:
    """What has been seen of writes of the storages that a plan moves, by id."""

    def __init__(self, index: SwapIndex, accountant: Accountant, device: torch.device) -> None:
        self._index = index
        self._accountant = accountant
        self._marks = WriteMarks(device)
        # Of each copy, how often its storage had been written by then; None if nobody can say.
        self._counts: dict[int, int | None] = {}

    def note_copy(self, storage_id: int, tracked: TrackedStorage) -> None:
        """Takes note that a copy is issued, either way."""
        self._counts[storage_id] = self._count(storage_id, tracked)
        self._marks.put_on(storage_id, tracked.storage)

    def note_kept_copy(self, storage_id: int, tracked: TrackedStorage) -> None:
        """Takes note that a host copy is true now, and kept for a later swap."""
        self._counts[storage_id] = self._complete_count(storage_id, tracked)

    def since_copy(self, storage_id: int, tracked: TrackedStorage) -> bool:
        """Whether a storage may have been written since its copy was issued, either way."""
        before, now = self._counts[storage_id], self._count(storage_id, tracked)
        is_counted = before is not None and now is not None and before != now
        return is_counted or self._marks.shows_write(storage_id, tracked.storage)

    def since_kept_copy(self, storage_id: int, tracked: TrackedStorage) -> bool:
        """Whether a storage may have been written since its host copy was kept."""
        is_as_counted = self._complete_count(storage_id, tracked) == self._counts[storage_id]
        return not is_as_counted or self._marks.shows_write(storage_id, tracked.storage)

    def _complete_count(self, storage_id: int, tracked: TrackedStorage) -> int:
        """Counts writes as `_count` does; unlike any other count if that may miss some."""
        lookup = self._index.storages[storage_id].lookup
        tensor = None if lookup is None else lookup()
        if tensor is not None and tensor.is_inference() and not self._accountant.watching:
            # It has no such count. Only what looks at every op can say that it was not written.
            return next(_UNLIKE_ANY)
        writes = self._count(storage_id, tracked)
        return next(_UNLIKE_ANY) if writes is None else writes

    def _count(self, storage_id: int, tracked: TrackedStorage) -> int | None:
        """Counts writes of an owned storage that autograd sees, whatever thread makes them.

        Those of an activation are autograd's own business: writing a saved tensor is an error. None
        if another tensor has been put in the place of the one that is moved: its count is another.
        """
        planned = self._index.storages[storage_id]
        if planned.lookup is None or planned.count_writes is None:
            return 0
        is_in_place = tracked.is_held_as(storage_of(planned.lookup()))
        return planned.count_writes() if is_in_place else None
