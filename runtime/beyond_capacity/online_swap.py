"""Runs a step that does not fit: before each op, brings in what it needs and makes room for it.

No plan is followed: what the step will do is not known yet. Storages that have lain idle longest
leave first. In a training step those are the ones that backward asks for last.

Copies are waited for one by one. This is for finding out what a step does, not for doing it fast.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import (
    OpMode,
    RunOp,
    is_collective,
    run_itself,
    storages_in,
    storages_of,
)
from profiles.hooks.named_storages import Owned
from profiles.hooks.plain_tensors import is_shared_memory
from profiles.schema.memory import largest_workspaces
from profiles.schema.profile import Access
from runtime.beyond_capacity.output_bytes import output_sizes_bytes
from runtime.beyond_capacity.places import Places
from runtime.beyond_capacity.second_try import give_back_pieces
from runtime.host.host_pool import HostFreeList
from runtime.lanes.lane import CopyLane
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage


class Need(NamedTuple):
    """What one op of a step needs on the device while it runs."""

    op: int
    name: str
    size_bytes: int
    """Arguments, results, and what cannot be moved out of their way."""


NO_NEED = Need(0, "", 0)
RUN_AGAIN = "a recipe that was run again"
"""What ops it does not see are called."""


class OnlineSwap(OpMode):
    """Keeps a step within the accountant's budget, whatever it does.

    Enter it last, so that it is asked first: what watches below sees ops whose arguments are there,
    and never a copy.

    [Note: what is away during an op] Every argument of an op is on the device while it runs, views
    included: torch checks their bounds against the storage's size. What else is alive may be away.
    Code that gets at a tensor's memory without an op takes its address first (`on_address`): that
    storage is brought in, and stays until the next anchor of the step, as in a replay. What NumPy
    was given in an earlier step torch marks as not resizable, and that stays.

    Attributes:
        largest_need: The op of this step that needs the most.
        fell_short: Whether an op of this step found no room, and the budget was given up.
        would_fit: Whether all that was alive at each of its ops so far would have had room at once.
        workspaces_bytes: What ops take while they run and give back, by name, where that is known.
            So much is kept free if anything can leave for it.
    """

    def __init__(
        self,
        device: torch.device,
        accountant: Accountant,
        *,
        d2h: CopyLane,
        h2d: CopyLane,
        free_list: HostFreeList,
    ) -> None:
        super().__init__()
        self.largest_need = NO_NEED
        self.fell_short = False
        self.would_fit = True
        self.workspaces_bytes: dict[str, int] = {}
        self._others_bytes = 0
        self._device = device
        self._accountant = accountant
        self._places = Places(accountant, d2h, h2d, free_list)
        self._addressed: set[int] = set()
        self._op = 0

    def note_workspaces(self, sizes_bytes: Mapping[str, int]) -> None:
        """Gets to know what ops take while they run, by name, beside what is known already."""
        known = self.workspaces_bytes
        self.workspaces_bytes = largest_workspaces((*known.items(), *sizes_bytes.items()))

    def begin_step(self, owned: tuple[Owned, ...]) -> None:
        """Starts counting ops, and gets to know and counts what lives already."""
        self._op = 0
        self.largest_need = NO_NEED
        self.fell_short = False
        self.would_fit = True
        self._others_bytes = 0
        self._addressed.clear()
        self._accountant.memory.count_owned(owned)
        for owner in owned:
            if owner.device == self._device:
                self._places.use(owner.storage)

    def size_of(self, storage: torch.UntypedStorage) -> int:
        """Returns a storage's size in bytes, wherever they are."""
        self._places.drain()
        seen = self._places.away.get(storage._cdata)
        return storage.nbytes() if seen is None else seen.tracked.size_bytes

    def moving(self) -> tuple[TrackedStorage, ...]:
        """Returns those that must not be touched before they are back."""
        return self._places.moving()

    def evict_all_but(self, kept: set[int]) -> None:
        """Moves everything out that can be moved, but storages to be kept, by `_cdata`."""
        self._places.drain()
        for cdata in self._idle(kept):
            self._places.evict(cdata)

    def try_twice(self, do: Callable[[], None], kept: set[int]) -> None:
        """Does what there is room for, twice if that lies in pieces; see `SecondTry`."""
        try:
            do()
        except torch.OutOfMemoryError:
            self.evict_all_but(kept)
        else:
            return
        give_back_pieces()
        # Not before the error is gone: it holds what has been made so far.
        do()

    def make_fit(self, wanted_bytes: int = 0) -> None:
        """Moves out, outside any op, what keeps so many bytes more from being within the budget.

        A model is made before anything keeps to a budget, and may be larger than that.
        """
        self._places.drain()
        for cdata in self._idle(set()):
            if self._accountant.has_room(wanted_bytes):
                return
            self._places.evict(cdata)

    def take_in(self, storage: torch.UntypedStorage) -> None:
        """Gets to know a storage that something else has brought back, outside any step."""
        self._accountant.memory.see(storage)
        self._places.use(storage)

    def make_ready(
        self,
        storages: Sequence[torch.UntypedStorage],
        made_bytes: Sequence[int],
        ops: Iterable[str],
    ) -> None:
        """Brings in storages for ops that it does not see, with room for what those make.

        Args:
            storages: What they read.
            made_bytes: What they make.
            ops: Their names.
        """
        self._places.drain()
        kept = {storage._cdata for storage in storages}
        away = [cdata for cdata in kept if cdata in self._places.away]
        wanted_bytes = [self._places.away[cdata].tracked.size_bytes for cdata in away]
        rounded = map(self._accountant.rounded_bytes, (*wanted_bytes, *made_bytes))
        spare_bytes = max((self.workspaces_bytes.get(name, 0) for name in ops), default=0)
        self._make_room(sum(rounded), kept, spare_bytes)
        for cdata in away:
            self._bring_in(cdata, kept)
        need_bytes = sum(made_bytes) + sum(storage.nbytes() for storage in storages)
        if need_bytes > self.largest_need.size_bytes:
            self.largest_need = Need(self._op, RUN_AGAIN, need_bytes)

    def hold(self, cdata: int) -> bool:
        """Brings a storage in until the next anchor, for code that is no op; whether it was out."""
        self._places.drain()
        self._addressed.add(cdata)
        if cdata not in self._places.away:
            return False
        self._make_room(self._places.away[cdata].tracked.size_bytes, {cdata})
        self._bring_in(cdata, {cdata})
        return True

    def hand_over(self, storage: torch.UntypedStorage) -> None:
        """Brings a storage back, outside any step, and lets go of it."""
        self._places.drain()
        if storage._cdata in self._places.away:
            self._places.bring_in(storage._cdata)
        self._places.let_go(storage)

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Brings in a storage whose address is taken; see `profiles.hooks.addresses`."""
        if storage.device == self._device:
            self.hold(storage._cdata)

    def at_anchor(self) -> None:
        """Addresses taken before an anchor are used no more."""
        self._addressed.clear()

    def close(self) -> None:
        """Brings everything back, outside any step, where no budget holds, and lets go of it.

        Raises:
            torch.OutOfMemoryError: There is no room for all that lives between steps; call again.
        """
        self._places.restore()

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op with its arguments on the device."""
        return self.run_op_by(run_itself, func, args, kwargs)

    def run_op_by(self, run: RunOp, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Has an op run with its arguments on the device."""
        self._places.drain()
        inputs = self._by_address(storages_in(func, args, kwargs, self._device))
        made_bytes = output_sizes_bytes(self._device, func, args, kwargs)
        self._prepare(inputs, made_bytes, self._workspace_bytes(func))
        result = run(func, args, kwargs)
        touched = inputs | self._by_address(storages_of(result, self._device))
        if is_collective(func):
            self._places.exchange(touched)
        for storage in touched.values():
            self._places.use(storage)
        self._note_need(func, touched)
        away = self._places.away
        if away and self.would_fit:
            away_bytes = sum(seen.tracked.size_bytes for seen in away.values())
            self.would_fit = self._accountant.has_room(away_bytes)
        self._op += 1
        return result

    def _by_address(
        self, storages: Iterable[torch.UntypedStorage]
    ) -> dict[int, torch.UntypedStorage]:
        """Leaves the host's out; see [Note: memory that processes share]."""
        knows = self._places.knows
        return {s._cdata: s for s in storages if not is_shared_memory(s) or knows(s._cdata)}

    def _prepare(
        self,
        inputs: dict[int, torch.UntypedStorage],
        made_bytes: tuple[int, ...] | None,
        spare_bytes: int,
    ) -> None:
        """Makes room for what an op is about to bring in and to make, then brings it in."""
        away = self._places.away
        missing = [cdata for cdata in inputs if cdata in away]
        wanted_bytes = [away[cdata].tracked.size_bytes for cdata in missing]
        if not self._accountant.counts_all:
            # A batch that no op has touched yet: the accountant will count it with this one.
            wanted_bytes += [s.nbytes() for c, s in inputs.items() if not self._places.knows(c)]
        if made_bytes is None:
            self.evict_all_but(set(inputs))
        else:
            rounded = map(self._accountant.rounded_bytes, (*wanted_bytes, *made_bytes))
            self._make_room(sum(rounded), set(inputs), spare_bytes)
        for cdata in missing:
            self._bring_in(cdata, set(inputs))

    def _bring_in(self, cdata: int, kept: set[int]) -> None:
        self.try_twice(partial(self._places.bring_in, cdata), kept)

    def _workspace_bytes(self, func: OpOverload) -> int:
        # Most often nothing is known of any, and an op's name takes a while to put together.
        return self.workspaces_bytes.get(str(func), 0) if self.workspaces_bytes else 0

    def _make_room(self, wanted_bytes: int, kept: set[int], spare_bytes: int = 0) -> None:
        """Makes room for what is wanted, and for as much of what is spare as anything leaves."""
        if self._accountant.has_room(wanted_bytes + spare_bytes):
            return
        for cdata in self._idle(kept):
            self._places.evict(cdata)
            if self._accountant.has_room(wanted_bytes + spare_bytes):
                return
        if self._accountant.has_room(wanted_bytes):
            return
        # What lies in circles, as a model that was trained before may, is there until then.
        gc.collect()
        self._places.drain()
        if self._accountant.has_room(wanted_bytes):
            return
        # The step is lost. It runs on, so that the op that needs the most can be named.
        known = (*self._places.here.values(), *self._places.fixed.values())
        known_bytes = sum(self._accountant.rounded_bytes(s.tracked.size_bytes) for s in known)
        self._others_bytes = max(0, self._accountant.taken_bytes() - known_bytes)
        self._accountant.lift()
        self.fell_short, self.would_fit = True, False

    def _idle(self, kept: set[int]) -> list[int]:
        """Returns what can leave, the one that has lain idle longest first."""
        kept = kept | self._addressed
        return [cdata for cdata in self._places.here if cdata not in kept]

    def _note_need(self, func: OpOverload, touched: dict[int, torch.UntypedStorage]) -> None:
        fixed = self._places.fixed.items()
        sizes_bytes = [storage.nbytes() for storage in touched.values()]
        sizes_bytes += [s.tracked.size_bytes for cdata, s in fixed if cdata not in touched]
        need_bytes = self._others_bytes + sum(map(self._accountant.rounded_bytes, sizes_bytes))
        if need_bytes > self.largest_need.size_bytes:
            self.largest_need = Need(self._op, str(func), need_bytes)
