"""Storages that an op may not touch, and those whose host copy an op's write makes untrue.

Two modes look at ops and ask here: the accountant, which counts memory besides (watched steps), and
`runtime.replay.op_guard`, which does nothing else (the others). Both hand over the ops that are to
be noted, since they may be run again (`runtime.recompute.capture`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import RunOp, run_itself

OnForbiddenUse = Callable[[str, int], None]
"""Is given what uses the storage, and the storage's `_cdata`."""


class MovedStorage(Protocol):
    """A storage that a plan moves; see `runtime.storage.residency.TrackedStorage`."""

    cdata: int

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        """Whether it is that storage, and not another one at its address."""

    def forget_copy(self) -> None:
        """The host copy is no longer true."""


class ReliedOn(Protocol):
    """A storage whose writes are counted; see `runtime.recompute.noted_storage`."""

    cdata: int

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        """Whether it is that storage, and not another one at its address."""

    def before_write(self, user: object) -> None:
        """What is given is about to write it."""


class OpNotes(Protocol):
    """Notes ops that may be run again; see `runtime.recompute.capture`."""

    is_on: bool

    def run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op, and notes it if it has to be."""


class NoNotes:
    """Notes no op."""

    is_on = False

    def run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op."""
        return run_itself(func, args, kwargs)


OnNoRoom = Callable[[OpOverload, Any, Any], bool]
"""Is given an op that ran out of memory, and its arguments; returns whether it has room now.

It runs again then, by the detour if that has been set.
"""

Detour = Callable[[OpOverload, Any, Any, RunOp], Any]
"""Is given an op, its arguments, and what would have run it."""


class GuardedStorages:
    """What of a plan's storages is away or moving, and on whose bytes something relies.

    Attributes:
        detour: Runs ops in place of the mode that looks at them, if it is set: what is away is its
            business then.
        forbidden: Storages that no op may touch, by address.
        copied: Storages with a host copy that is true until an op writes them, by address.
        relied_on: Storages that recipes touch, by address.
        addresses: The addresses of all. It is one set for as long as this object lives, so that a
            mode may keep it: an op on none of them is let pass.
        notes: Notes ops.
        makes_room: Is asked when an op runs out of memory.
    """

    def __init__(self) -> None:
        self.forbidden: dict[int, MovedStorage] = {}
        self.copied: dict[int, MovedStorage] = {}
        self.relied_on: dict[int, ReliedOn] = {}
        self.addresses: set[int] = set()
        self.notes: OpNotes = NoNotes()
        self.detour: Detour | None = None
        self.makes_room: OnNoRoom = lambda func, args, kwargs: False
        self._on_forbidden_use: OnForbiddenUse | None = None

    def when_forbidden_use(self, handler: OnForbiddenUse) -> None:
        """Sets what happens before an op that touches a forbidden storage runs."""
        self._on_forbidden_use = handler

    def forbid(self, moved: MovedStorage) -> None:
        """From now on no op may touch this storage."""
        self._put(self.forbidden, moved)

    def allow(self, moved: MovedStorage) -> None:
        """Ops may touch this storage again."""
        self._take(self.forbidden, moved)

    def expect_no_write(self, moved: MovedStorage) -> None:
        """Has the host copy of this storage forgotten as soon as an op writes the storage."""
        self._put(self.copied, moved)

    def expect_write(self, moved: MovedStorage) -> None:
        """This storage has no host copy that a write could make untrue."""
        self._take(self.copied, moved)

    def rely_on(self, storage: ReliedOn) -> None:
        """From now on ops that write this storage are reported to it."""
        self.relied_on[storage.cdata] = storage
        self.addresses.add(storage.cdata)

    def rely_on_nothing(self) -> None:
        """Recipes touch no storage any more."""
        for address in tuple(self.relied_on):
            del self.relied_on[address]
            self._forget(address)

    def is_forbidden(self, storage: torch.UntypedStorage) -> bool:
        """Whether no op may touch a storage."""
        moved = self.forbidden.get(storage._cdata)
        return moved is not None and moved.is_held_as(storage)

    def look(self, user: object, storage: torch.UntypedStorage, *, writes: bool) -> None:
        """Acts before an op, or other code that is about to get at a storage's bytes, runs."""
        address = storage._cdata
        moved = self.forbidden.get(address)
        if moved is not None:
            self._refuse(user, storage, moved)
        copied = self.copied.get(address)
        if copied is not None and writes:
            copied.forget_copy()
        relied_on = self.relied_on.get(address)
        if writes and relied_on is not None and relied_on.is_held_as(storage):
            relied_on.before_write(user)

    def _refuse(self, user: object, storage: torch.UntypedStorage, moved: MovedStorage) -> None:
        if not moved.is_held_as(storage):
            # That one died while it was away, and this one got its address.
            self.allow(moved)
        elif self._on_forbidden_use is not None:
            self._on_forbidden_use(f"{user} uses a storage that the plan has away", moved.cdata)

    def _put(self, place: dict[int, MovedStorage], moved: MovedStorage) -> None:
        place[moved.cdata] = moved
        self.addresses.add(moved.cdata)

    def _take(self, place: dict[int, MovedStorage], moved: MovedStorage) -> None:
        address = moved.cdata
        # It may belong to another storage by now, if this one died while it was away.
        if place.get(address) is moved:
            del place[address]
            self._forget(address)

    def _forget(self, address: int) -> None:
        is_left = address in self.forbidden or address in self.copied or address in self.relied_on
        if not is_left:
            self.addresses.discard(address)
