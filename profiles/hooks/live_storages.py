"""The storages of a device that are alive, found by address, without keeping any of them alive."""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

Note = TypeVar("Note")


class LiveStorages(Generic[Note]):
    """What is known of each storage that is alive; forgotten when it is released.

    [Note: release by weak reference] A storage's Python object lives exactly as long as the
    storage does, so a weak reference to it ends at the point of the program where the memory is
    given back. What is called there runs no Python, in which an interrupt would be swallowed: it
    puts the reference aside, and `drain` does the rest, which a caller that counts does first, at
    every op and every anchor. The references belong to this record: once it is dropped, nothing of
    it waits for storages that live on.
    """

    def __init__(self, on_release: Callable[[Note], None]) -> None:
        """Makes an empty record; a storage's note is passed to `on_release` after its release."""
        self._on_release = on_release
        self._notes: dict[int, Note] = {}
        self._references: dict[int, _Reference] = {}
        self._released: deque[weakref.ref[torch.UntypedStorage]] = deque()

    def __contains__(self, cdata: int) -> bool:
        self.drain()
        return cdata in self._notes

    def __iter__(self) -> Iterator[int]:
        self.drain()
        return iter(tuple(self._notes))

    def get(self, cdata: int) -> Note | None:
        """Returns what is known of the storage at an address; None if it was not put in."""
        self.drain()
        return self._notes.get(cdata)

    def put(self, storage: torch.UntypedStorage, note: Note) -> None:
        """Sets what is known of a storage."""
        self.drain()
        cdata = storage._cdata
        if cdata not in self._references:
            reference = _Reference(storage, self._released.append)
            reference.cdata = cdata
            # Before the note: one without a reference would never be forgotten.
            self._references[cdata] = reference
        self._notes[cdata] = note

    def replace(self, cdata: int, note: Note) -> None:
        """Sets what is known of a storage that was put in before."""
        self._notes[cdata] = note

    def drain(self) -> None:
        """Forgets the storages that have been released since last asked."""
        while self._released:
            reference = self._released[0]
            assert isinstance(reference, _Reference)
            if self._references.get(reference.cdata) is reference:
                if reference.cdata in self._notes:
                    self._on_release(self._notes.pop(reference.cdata))
                # After the note, and the reference aside last of all: what an interrupt leaves
                # undone is done when drained again.
                del self._references[reference.cdata]
            self._released.popleft()


class _Reference(weakref.ref[torch.UntypedStorage]):
    """A weak reference that knows its storage's address when the storage is gone."""

    __slots__ = ("cdata",)
    cdata: int
