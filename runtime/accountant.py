"""The accountant of the emulated accelerator: counts device bytes, and guards absent storages.

It is a dispatch mode: it sees every op of a watched step. It counts as the recorder does
(`profiles.trace`), so measured peaks and planned peaks speak of the same bytes: storages, at their
own size, without what a kernel allocates and frees within one op.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.dispatch import is_bookkeeping, storages_in, storages_of
from profiles.owned import Owned
from runtime.guarded_storages import GuardedStorages, OnForbiddenUse

if TYPE_CHECKING:
    from runtime.residency import TrackedStorage

MIB = 1 << 20


class EmulatedOutOfMemoryError(torch.OutOfMemoryError):
    """The emulated accelerator has no room; what CUDA's out-of-memory error is to a GPU."""


class Accountant(TorchDispatchMode):
    """Counts the bytes of all live storages, and raises above the budget.

    Attributes:
        budget_bytes: The device's memory; None counts without a limit.
        live_bytes: Device bytes now.
        peak_bytes: Most device bytes since `watch` was entered.
        guarded: Storages that are absent, moving or copied.
    """

    def __init__(self, device: torch.device, budget_bytes: int | None) -> None:
        super().__init__()
        self.budget_bytes = budget_bytes
        self.live_bytes = 0
        self.peak_bytes = 0
        self._device = device
        self._lifted = False
        self._watching = False
        self._sizes: dict[int, int] = {}
        self.guarded = GuardedStorages()
        self._before_op: Callable[[], None] | None = None
        self._on_made: Callable[[torch.UntypedStorage], None] | None = None

    def when_forbidden_use(self, handler: OnForbiddenUse) -> None:
        """Sets what happens before an op that touches an absent or moving storage runs."""
        self.guarded.when_forbidden_use(handler)

    def count_owned(self, owned: tuple[Owned, ...]) -> None:
        """Counts storages that a step may never hand to an op, but that take memory all the same.

        It is not part of `watch`: a context manager would hold its argument, and with it the
        gradients that `zero_grad` means to drop, until the step ends.
        """
        for owner in owned:
            self._see(owner.storage)

    def before_each_op(self, act: Callable[[], None] | None) -> None:
        """Sets what is done before every op from now on; None for nothing."""
        self._before_op = act

    def when_made(self, note: Callable[[torch.UntypedStorage], None] | None) -> None:
        """Sets who is told of each storage not seen before from now on; None for nobody."""
        self._on_made = note

    @property
    def watching(self) -> bool:
        """Whether a step is being watched."""
        return self._watching

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Counts during one step."""
        self.peak_bytes = self.live_bytes
        self._lifted = False
        self._watching = True
        try:
            with self:
                yield
        finally:
            self._watching = False
            self._before_op = None
            self._on_made = None

    def lift(self) -> None:
        """Stops enforcing the budget until the step ends, so that everything can be restored."""
        self._lifted = True

    def forbid(self, storage: torch.UntypedStorage, tracked: "TrackedStorage") -> None:
        """From now on no op may touch this storage."""
        self.guarded.forbid(tracked)

    def allow(self, tracked: "TrackedStorage") -> None:
        """Ops may touch this storage again."""
        self.guarded.allow(tracked)

    def expect_no_write(self, tracked: "TrackedStorage") -> None:
        """Has the host copy of this storage forgotten as soon as an op writes the storage."""
        self.guarded.expect_no_write(tracked)

    def expect_write(self, tracked: "TrackedStorage") -> None:
        """This storage has no host copy that a write could make untrue."""
        self.guarded.expect_write(tracked)

    def has_room(self, wanted_bytes: int) -> bool:
        """Whether so many bytes more are within the budget."""
        if self.budget_bytes is None or self._lifted:
            return True
        return self.live_bytes + wanted_bytes <= self.budget_bytes

    def give_back(self, storage: torch.UntypedStorage) -> None:
        """Counts the bytes of a storage that has just been emptied as free."""
        if storage._cdata in self._sizes:
            self._resize(storage._cdata, 0)

    def take(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        """Counts bytes for a storage that is about to be refilled.

        Raises:
            EmulatedOutOfMemoryError: That would exceed the budget.
        """
        if not self._watching:
            self._resize_if_known(storage, size_bytes)
            return
        self._check_room(size_bytes)
        self._sizes.setdefault(storage._cdata, 0)
        self._resize(storage._cdata, size_bytes)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_bookkeeping(func):
            return func(*args, **kwargs)
        if self._before_op is not None:
            self._before_op()
        inputs = storages_in(func, args, kwargs)
        for storage, writes in inputs.items():
            self.guarded.look(func, storage, writes=writes)
            self._see(storage)
        result = func(*args, **kwargs)
        for storage in storages_of(result):
            self._see(storage)
        self._check_room(0)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        cdata = storage._cdata
        if cdata in self.guarded.forbidden or storage.device != self._device:
            return
        if cdata not in self._sizes:
            self._sizes[cdata] = 0
            weakref.finalize(storage, self._forget, cdata).atexit = False
            if self._on_made is not None:
                self._on_made(storage)
        self._resize(cdata, storage.nbytes())

    def _resize_if_known(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        if storage._cdata in self._sizes:
            self._resize(storage._cdata, size_bytes)

    def _resize(self, cdata: int, size_bytes: int) -> None:
        self.live_bytes += size_bytes - self._sizes[cdata]
        self._sizes[cdata] = size_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, cdata: int) -> None:
        self.live_bytes -= self._sizes.pop(cdata, 0)

    def _check_room(self, wanted_bytes: int) -> None:
        if self.budget_bytes is not None and not self.has_room(wanted_bytes):
            raise EmulatedOutOfMemoryError(
                f"Emulated {self._device} device out of memory: "
                f"{(self.live_bytes + wanted_bytes) / MIB:.1f} MiB needed, its capacity is "
                f"{self.budget_bytes / MIB:.1f} MiB."
            )
