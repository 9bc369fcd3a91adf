"""The storages of a device that are alive, found by address, without keeping any of them alive."""

import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

Note = TypeVar("Note")


class LiveStorages(Generic[Note]):
    """What is known of each storage that is alive; forgotten when it is released.

    [Note: release by weak reference] A storage's Python object lives exactly as long as the
    storage does, so the callback of a weak reference runs at the point of the program where the
    memory is given back. The references belong to this record: once it is dropped, nothing of it
    waits for storages that live on.
    """

    def __init__(self, on_release: Callable[[Note], None]) -> None:
        """Makes an empty record.

        Args:
            on_release: Called with what is known of a storage when it is released.
        """
        self._on_release = on_release
        self._notes: dict[int, Note] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __contains__(self, cdata: int) -> bool:
        return cdata in self._notes

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._notes))

    def get(self, cdata: int) -> Note | None:
        """Returns what is known of the storage at an address; None if it was not put in."""
        return self._notes.get(cdata)

    def put(self, storage: torch.UntypedStorage, note: Note) -> None:
        """Sets what is known of a storage."""
        cdata = storage._cdata
        self._notes[cdata] = note
        if cdata not in self._references:
            self._references[cdata] = weakref.ref(storage, _forgetter(weakref.ref(self), cdata))

    def replace(self, cdata: int, note: Note) -> None:
        """Sets what is known of a storage that was put in before."""
        self._notes[cdata] = note

    def _forget(self, cdata: int) -> None:
        self._references.pop(cdata, None)
        if cdata in self._notes:
            self._on_release(self._notes.pop(cdata))


def _forgetter(
    record: "weakref.ref[LiveStorages[Note]]", cdata: int
) -> "Callable[[weakref.ref[torch.UntypedStorage]], None]":
    def forget(_: "weakref.ref[torch.UntypedStorage]") -> None:
        alive = record()
        if alive is not None:
            alive._forget(cdata)

    return forget
