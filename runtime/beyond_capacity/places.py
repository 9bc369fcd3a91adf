"""Where each storage of a device is while a step is swapped on line: there, fixed, or away."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from profiles.hooks.live_storages import LiveStorages
from profiles.hooks.plain_tensors import is_movable
from runtime.host.host_pool import HostFreeList, HostStretch
from runtime.lanes.lane import CopyLane
from runtime.storage.accountant import Accountant
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError


@dataclass(eq=False)
class _Seen:
    """A storage of the device, and the host memory it has while it is not there."""

    tracked: TrackedStorage
    host: HostStretch | None = None


class Places:
    """The storages of a device, and where each of them is.

    Attributes:
        here: Those that can be moved, by `_cdata`, least recently used first.
        fixed: Those on the device that cannot be moved.
        away: Those in host memory.
    """

    def __init__(
        self, accountant: Accountant, d2h: CopyLane, h2d: CopyLane, free_list: HostFreeList
    ) -> None:
        self.here: dict[int, _Seen] = {}
        self.fixed: dict[int, _Seen] = {}
        self.away: dict[int, _Seen] = {}
        self._known: LiveStorages[_Seen] = LiveStorages(self._forget)
        # Threads of the process group may use these after the op that hands them over.
        self._exchanged: set[int] = set()
        self._accountant = accountant
        self._d2h, self._h2d = d2h, h2d
        self._free_list = free_list

    def drain(self) -> None:
        """Forgets storages that have died; to be called before anything is asked."""
        self._known.drain()

    def knows(self, cdata: int) -> bool:
        """Whether a storage is in any place."""
        return cdata in self.here or cdata in self.fixed or cdata in self.away

    def moving(self) -> tuple[TrackedStorage, ...]:
        """Returns those that are not resident, wherever an interrupt may have left them."""
        tracked = [seen.tracked for place in self._all() for seen in place.values()]
        return tuple(one for one in tracked if one.residency is not Residency.RESIDENT)

    def use(self, storage: torch.UntypedStorage) -> None:
        """Puts a storage that is there at the end of the queue of those that leave."""
        self.drain()
        cdata = storage._cdata
        if cdata in self.away:
            return
        seen = self.here.pop(cdata, None) or self.fixed.pop(cdata, None)
        if seen is None or seen.tracked.size_bytes != storage.nbytes():
            seen = _Seen(TrackedStorage(storage, self._accountant))
            self._known.put(storage, seen)
        movable = storage.nbytes() > 0 and is_movable(storage) and cdata not in self._exchanged
        (self.here if movable else self.fixed)[cdata] = seen

    def exchange(self, cdatas: Collection[int]) -> None:
        """A process group has been handed these: they stay for as long as they live."""
        self._exchanged.update(cdatas)

    def evict(self, cdata: int) -> None:
        """Moves out a storage that is here, or notes that it cannot be moved."""
        seen = self.here[cdata]
        host = seen.host = self._free_list.take(seen.tracked.size_bytes)
        try:
            seen.tracked.swap_out(self._d2h, host)
            seen.tracked.release()
        except UnmovableError:
            # Resized or lent to an array since an op used it last, or its copy failed.
            self._give_back_host(seen)
            self.fixed[cdata] = self.here.pop(cdata)
            return
        # In both places for a moment: an interrupt must not find it in none.
        self.away[cdata] = seen
        del self.here[cdata]

    def bring_in(self, cdata: int) -> None:
        """Brings back a storage that is away; there must be room for it."""
        seen = self.away[cdata]
        seen.tracked.swap_in(self._h2d)
        try:
            seen.tracked.arrive()
        except UnmovableError:
            # A copy that fails is tried once more.
            seen.tracked.restore(self._h2d)
        self.here[cdata] = seen
        del self.away[cdata]
        self._give_back_host(seen)

    def let_go(self, storage: torch.UntypedStorage) -> None:
        """Forgets a storage, wherever it is."""
        for place in self._all():
            place.pop(storage._cdata, None)

    def restore(self) -> None:
        """Brings everything back and lets go of it; all that has room, before it raises."""
        self.drain()
        failed: torch.OutOfMemoryError | None = None
        for place in self._all():
            for cdata, seen in tuple(place.items()):
                try:
                    # Wherever an interrupt has left it: `restore` starts from any state.
                    seen.tracked.restore(self._h2d)
                except torch.OutOfMemoryError as error:
                    failed = failed or error
                    continue
                del place[cdata]
                self._give_back_host(seen)
        if failed is not None:
            try:
                raise failed
            finally:
                # Its traceback holds this frame, as in `profiles.hooks.mode_stack`.
                failed = None

    def _forget(self, seen: _Seen) -> None:
        """A storage has died, wherever its bytes were; its address may be used again."""
        cdata = seen.tracked.cdata
        for place in self._all():
            if place.get(cdata) is seen:
                del place[cdata]
                self._exchanged.discard(cdata)
                self._accountant.guarded.allow(seen.tracked)
                self._give_back_host(seen)

    def _all(self) -> tuple[dict[int, _Seen], ...]:
        return self.here, self.fixed, self.away

    def _give_back_host(self, seen: _Seen) -> None:
        # Let go of first: an interrupt in between must not have it given back twice, to two others.
        host, seen.host = seen.host, None
        if host is not None:
            self._free_list.give(host)
