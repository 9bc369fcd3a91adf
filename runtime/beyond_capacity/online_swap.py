"""Runs a step that does not fit: before each op, brings in what it needs and makes room for it.

No plan is followed: nobody knows yet what the step will do. Storages that have lain idle longest
leave first. In a training step those are the ones that backward asks for last.

Copies are waited for one by one. This is for finding out what a step does, not for doing it fast.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import (
    OpMode,
    is_collective,
    storages_in,
    storages_of,
)
from profiles.hooks.live_storages import LiveStorages
from profiles.hooks.named_storages import Owned
from profiles.schema.errors import CapacityError, SwapplanError
from profiles.schema.profile import Access
from runtime.beyond_capacity.output_bytes import OutputBytes
from runtime.host.host_pool import HostPool, HostStretch
from runtime.lanes.lane import CopyLane
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage, UnmovableError


class HostFreeList:
    """Hands out host memory by size, and keeps what comes back for the next of that size.

    The sizes of a training step repeat, and fresh host memory is slow: every page is touched, and
    for a GPU pinned.
    """

    def __init__(self, new_pool: Callable[[int], HostPool] = HostPool) -> None:
        self._new_pool = new_pool
        self._spare: defaultdict[int, list[HostStretch]] = defaultdict(list)

    def take(self, size_bytes: int) -> HostStretch:
        """Returns host memory of a size.

        Raises:
            CapacityError: The host has none left.
        """
        if self._spare[size_bytes]:
            return self._spare[size_bytes].pop()
        try:
            return self._new_pool(size_bytes).stretch(0, size_bytes)
        except SwapplanError as error:
            raise CapacityError(
                f"The host has no {size_bytes} bytes left for what does not fit on the device. "
                "Record a smaller step, or on a host with more memory."
            ) from error

    def give(self, stretch: HostStretch) -> None:
        """Takes host memory back, once nothing in it is needed."""
        self._spare[stretch.size_bytes].append(stretch)


class Need(NamedTuple):
    """What one op needs on the device while it runs.

    Attributes:
        op: Its number in the step.
        name: The op.
        size_bytes: Arguments, results, and what cannot be moved out of their way.
    """

    op: int
    name: str
    size_bytes: int


@dataclass(eq=False)
class _Seen:
    """A storage of the device, and the host memory it has while it is not there."""

    tracked: TrackedStorage
    host: HostStretch | None = None


class OnlineSwap(OpMode):
    """Keeps a step within the accountant's budget, whatever it does.

    Enter it last, so that it is asked first: what watches below sees ops whose arguments are there,
    and never a copy.

    [Note: what is away during an op] Every argument of an op is on the device while it runs, views
    included: torch checks their bounds against the storage's size. What else is alive may be away.
    Code that gets at a tensor's memory without an op takes its address first (`on_address`): that
    storage is brought in, and stays until the next anchor of the step, as in a replay. What NumPy
    was given in an earlier step torch marks as not resizable, and that stays.
    """

    def __init__(
        self,
        device: torch.device,
        accountant: Accountant,
        *,
        d2h: CopyLane,
        h2d: CopyLane,
        shelf: HostFreeList,
    ) -> None:
        super().__init__()
        self._device = device
        self._accountant = accountant
        self._d2h = d2h
        self._h2d = h2d
        self._shelf = shelf
        self._output_bytes = OutputBytes(device)
        self._known: LiveStorages[_Seen] = LiveStorages(self._forget)
        # Those that can be moved, least recently used first.
        self._here: dict[int, _Seen] = {}
        self._fixed: dict[int, _Seen] = {}
        self._away: dict[int, _Seen] = {}
        # Threads of the process group may use these after the op that hands them over.
        self._exchanged: set[int] = set()
        self._addressed: set[int] = set()
        self._op = 0
        self._largest = Need(0, "", 0)
        self._fell_short = False

    def begin_step(self, owned: tuple[Owned, ...]) -> None:
        """Starts counting ops, and gets to know what lives already."""
        self._op = 0
        self._largest = Need(0, "", 0)
        self._fell_short = False
        self._addressed.clear()
        for owner in owned:
            if owner.device == self._device:
                self._use(owner.storage)

    @property
    def largest_need(self) -> Need:
        """The op of this step that needs the most."""
        return self._largest

    @property
    def fell_short(self) -> bool:
        """Whether an op of this step found no room, and the budget was given up."""
        return self._fell_short

    def size_of(self, storage: torch.UntypedStorage) -> int:
        """Returns a storage's size in bytes, wherever they are."""
        self._known.drain()
        seen = self._away.get(storage._cdata)
        return storage.nbytes() if seen is None else seen.tracked.size_bytes

    def evict_all_but(self, kept: set[int]) -> None:
        """Moves everything out that can be moved.

        Args:
            kept: Storages that stay, by `_cdata`.
        """
        self._known.drain()
        for cdata in self._idle(kept):
            self._evict(cdata)

    def hold(self, cdata: int) -> bool:
        """Brings a storage in and keeps it until the next anchor: code that is no op uses it.

        Returns:
            Whether it was away.
        """
        self._known.drain()
        self._addressed.add(cdata)
        if cdata not in self._away:
            return False
        self._make_room(self._away[cdata].tracked.size_bytes, {cdata})
        self._bring_in(cdata)
        return True

    def hand_over(self, storage: torch.UntypedStorage) -> None:
        """Brings a storage back, outside any step, and lets go of it."""
        self._known.drain()
        if storage._cdata in self._away:
            self._bring_in(storage._cdata)
        for place in self._places():
            place.pop(storage._cdata, None)

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
            torch.OutOfMemoryError: The device has no room for all that lives between steps. What
                is still away may be asked for again.
        """
        self._known.drain()
        failed: torch.OutOfMemoryError | None = None
        for place in self._places():
            for cdata, seen in tuple(place.items()):
                try:
                    # Wherever an interrupt has left it: `restore` starts from any state.
                    seen.tracked.restore(self._h2d)
                except torch.OutOfMemoryError as error:
                    failed = failed or error
                    continue
                del place[cdata]
        if failed is not None:
            raise failed

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op with its arguments on the device."""
        self._known.drain()
        inputs = {s._cdata: s for s in storages_in(func, args, kwargs, self._device)}
        self._prepare(inputs, self._output_bytes.of(func, args, kwargs))
        result = func(*args, **kwargs)
        touched = inputs | {s._cdata: s for s in storages_of(result, self._device)}
        if is_collective(func):
            self._exchanged |= touched.keys()
        for storage in touched.values():
            self._use(storage)
        self._note_need(func, touched)
        self._op += 1
        return result

    def _prepare(self, inputs: dict[int, torch.UntypedStorage], output_bytes: int | None) -> None:
        """Makes room for what an op is about to bring in and to make, then brings it in."""
        missing = [cdata for cdata in inputs if cdata in self._away]
        wanted = sum(self._away[cdata].tracked.size_bytes for cdata in missing)
        # A batch that no op has touched yet: the accountant will count it with this one.
        wanted += sum(
            storage.nbytes()
            for cdata, storage in inputs.items()
            if not [place for place in self._places() if cdata in place]
        )
        if output_bytes is None:
            self.evict_all_but(set(inputs))
        else:
            self._make_room(wanted + output_bytes, set(inputs))
        for cdata in missing:
            self._bring_in(cdata)

    def _make_room(self, wanted_bytes: int, kept: set[int]) -> None:
        if self._accountant.has_room(wanted_bytes):
            return
        for cdata in self._idle(kept):
            self._evict(cdata)
            if self._accountant.has_room(wanted_bytes):
                return
        # The step is lost. It runs on, so that the op that needs the most can be named.
        self._accountant.lift()
        self._fell_short = True

    def _idle(self, kept: set[int]) -> list[int]:
        """Returns what can leave, the one that has lain idle longest first."""
        kept = kept | self._addressed
        return [cdata for cdata in self._here if cdata not in kept]

    def _evict(self, cdata: int) -> None:
        seen = self._here[cdata]
        host = seen.host = self._shelf.take(seen.tracked.size_bytes)
        try:
            seen.tracked.swap_out(self._d2h, host)
            seen.tracked.release()
        except UnmovableError:
            # Resized or lent to an array since an op used it last, or its copy failed.
            self._give_back_host(seen)
            self._fixed[cdata] = self._here.pop(cdata)
            return
        # In both places for a moment: an interrupt must not find it in none.
        self._away[cdata] = seen
        del self._here[cdata]

    def _bring_in(self, cdata: int) -> None:
        seen = self._away[cdata]
        seen.tracked.swap_in(self._h2d)
        try:
            seen.tracked.arrive()
        except UnmovableError:
            # A copy that fails is tried once more.
            seen.tracked.restore(self._h2d)
        self._here[cdata] = seen
        del self._away[cdata]
        self._give_back_host(seen)

    def _use(self, storage: torch.UntypedStorage) -> None:
        """Puts a storage that is there at the end of the queue of those that leave."""
        self._known.drain()
        cdata = storage._cdata
        if cdata in self._away:
            return
        seen = self._here.pop(cdata, None) or self._fixed.pop(cdata, None)
        if seen is None or seen.tracked.size_bytes != storage.nbytes():
            seen = self._get_to_know(storage)
        movable = storage.nbytes() > 0 and storage.resizable() and cdata not in self._exchanged
        (self._here if movable else self._fixed)[cdata] = seen

    def _get_to_know(self, storage: torch.UntypedStorage) -> _Seen:
        seen = _Seen(TrackedStorage(storage, self._accountant))
        self._known.put(storage, seen)
        return seen

    def _forget(self, seen: _Seen) -> None:
        """A storage has died, wherever its bytes were; its address may be used again."""
        cdata = seen.tracked.cdata
        for place in self._places():
            if place.get(cdata) is seen:
                del place[cdata]
                self._exchanged.discard(cdata)
                self._accountant.guarded.allow(seen.tracked)
                self._give_back_host(seen)

    def _places(self) -> tuple[dict[int, _Seen], ...]:
        return self._here, self._fixed, self._away

    def _give_back_host(self, seen: _Seen) -> None:
        if seen.host is not None:
            self._shelf.give(seen.host)
            seen.host = None

    def _note_need(self, func: OpOverload, touched: dict[int, torch.UntypedStorage]) -> None:
        need = sum(storage.nbytes() for storage in touched.values())
        need += sum(
            seen.tracked.size_bytes for cdata, seen in self._fixed.items() if cdata not in touched
        )
        if need > self._largest.size_bytes:
            self._largest = Need(self._op, str(func), need)
