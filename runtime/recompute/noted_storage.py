"""Storages that the ops of recipes were handed or have made, known without being kept alive."""

import weakref
from collections.abc import Callable

import torch

from profiles.hooks.plain_tensors import storage_id_of

BeforeWrite = Callable[["NotedStorage", object], None]
"""Called with a storage and what is about to write it."""


class NotedStorage:
    """One storage, for one step.

    Attributes:
        cdata: Its address, by which ops and modes know it.
        size_bytes: Its bytes when it was first noted.
        writes: How many ops have written it since, or were about to.
    """

    __slots__ = ("_before_write", "_storage", "cdata", "size_bytes", "writes")

    def __init__(self, storage: torch.UntypedStorage, before_write: BeforeWrite) -> None:
        self.cdata = storage._cdata
        self.size_bytes = storage.nbytes()
        self.writes = 0
        self._storage = weakref.ref(storage)
        self._before_write = before_write

    @property
    def storage(self) -> torch.UntypedStorage | None:
        """The storage, unless it has been freed."""
        return self._storage()

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        """Whether it is that storage, and not another one at its address."""
        return storage is not None and self._storage() is storage

    def before_write(self, user: object) -> None:
        """What is given is about to write it."""
        self._before_write(self, user)
        self.writes += 1


class NotedStorages:
    """Those of the step under way, by address."""

    def __init__(self, on_noted: Callable[[NotedStorage], None], before_write: BeforeWrite) -> None:
        """Notes nothing yet.

        Args:
            on_noted: Called with each storage that is noted; it has its writes reported.
            before_write: Called before one is written.
        """
        self._noted: dict[int, NotedStorage] = {}
        self._on_noted = on_noted
        self._before_write = before_write

    def clear(self) -> None:
        """Forgets all of them: another step begins."""
        self._noted.clear()

    def find(self, storage: torch.UntypedStorage | None) -> NotedStorage | None:
        """Returns what is noted of a storage, if anything is."""
        noted = None if storage is None else self._noted.get(storage._cdata)
        return noted if noted is not None and noted.is_held_as(storage) else None

    def under(self, tensor: torch.Tensor) -> NotedStorage:
        """Returns the note of a tensor's storage; begins it if there is none."""
        noted = self._noted.get(storage_id_of(tensor))
        if noted is not None and noted._storage() is not None:
            # No other storage is at the address of one that is alive.
            return noted
        return self.note(tensor.untyped_storage())

    def note(self, storage: torch.UntypedStorage) -> NotedStorage:
        """Returns the note of a storage; begins it if there is none."""
        noted = self.find(storage)
        if noted is None:
            noted = NotedStorage(storage, self._before_write)
            # Reported first: a note whose writes nobody hears of would look unwritten.
            self._on_noted(noted)
            self._noted[noted.cdata] = noted
        return noted
