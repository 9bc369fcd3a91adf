"""Keeps the stretch between two steps safe, in which a plan may have storages away.

There, code of anybody runs: evaluation, saving, logging. Reading an emptied storage would end the
process, and writing one that a copy is reading would lose the write. So whoever is about to touch
such a storage first brings all of them back.

[Note: who is seen between steps] Two modes see what this thread does: one sees ops, whoever calls
them, and one sees calls of torch's Python functions, which may reach a tensor's memory without any
op (`numpy`, `data_ptr`, pickling). Other threads have modes of their own. Of them only calls of
the model and its `state_dict` are seen, by hooks (`runtime.replay`); so are forks, which wait for
everything to come back. Not seen are another thread's own access to a parameter, and memory whose
address was taken earlier. Where torch has been built for CUDA, that is an error rather than a
crash (`runtime.seal`).

[Note: modes stay until the next step] Once everything is back the modes let all pass, but they stay
on the stacks until the next step begins: whoever touches may be called from inside torch, which
keeps what it knows of its stacks while it calls somebody (a compiled function does), and would be
left with modes that are gone.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.dispatch import is_bookkeeping, storages_of
from profiles.mode_stack import (
    call_modes,
    enter_calls_below,
    enter_ops_below,
    leave_calls,
    leave_ops,
    op_modes,
)
from runtime.tensor_descriptions import DESCRIBING


class BoundaryGuard:
    """Calls back before anybody touches a guarded storage."""

    def __init__(self, restore: Callable[[str], None]) -> None:
        """Makes a guard that is not active.

        Args:
            restore: Brings everything back; told who asked. After it nothing is guarded.
        """
        self._restore = restore
        self._guarded: frozenset[int] = frozenset()
        self._lock = threading.RLock()
        _guards.add(self)

    def enter(self, guarded: frozenset[int]) -> None:
        """Begins a stretch between two steps.

        Args:
            guarded: Storages that nobody may touch before they are restored, by `_cdata`.
        """
        self._guarded = guarded
        if guarded:
            self._enter_modes()

    def leave(self) -> None:
        """Ends the stretch: nothing is guarded."""
        with self._lock:
            self._guarded = frozenset()
            self._leave_modes()

    def end(self, restore: Callable[[], None]) -> None:
        """Ends the stretch for good: as long as not everything is back, it goes on."""
        with self._lock:
            restore()
            self.leave()

    def touch(self, what: str) -> None:
        """Brings everything back if anything is guarded; may be called in any thread.

        Args:
            what: Who asks, for readers.
        """
        with self._lock:
            if not self._guarded:
                return
            guarded, self._guarded = self._guarded, frozenset()
            try:
                self._restore(what)
            except BaseException:
                self._guarded = guarded
                raise

    def look(self, what: object, arguments: Any) -> None:
        """Brings everything back if a tensor among the arguments is guarded."""
        if self._guarded and any(s._cdata in self._guarded for s in storages_of(arguments)):
            self.touch(str(getattr(what, "__name__", what)))

    def look_at(self, storage: torch.UntypedStorage) -> None:
        """Brings everything back if a storage is guarded whose address is taken."""
        if storage._cdata in self._guarded:
            self.touch("code that is no op")

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Sees nothing of what this thread does inside, which costs it nothing either."""
        try:
            self._leave_modes()
            yield
        finally:
            if self._guarded:
                self._guard_again()

    def _guard_again(self) -> None:
        try:
            self._enter_modes()
        except BaseException:
            # What nobody sees must not be away.
            self.touch("an interrupt")
            raise

    def _enter_modes(self) -> None:
        if not self._has_entered(op_modes()):
            enter_ops_below(_OpGuard(self))
        if not self._has_entered(call_modes()):
            enter_calls_below(_CallGuard(self))

    def _leave_modes(self) -> None:
        for call_mode in [m for m in call_modes() if _guard_of(m) is self]:
            leave_calls(call_mode)
        for op_mode in [m for m in op_modes() if _guard_of(m) is self]:
            leave_ops(op_mode)

    def _has_entered(self, modes: Any) -> bool:
        return any(_guard_of(mode) is self for mode in modes)


SETS_GRADIENTS = torch._C._set_grad_enabled


class _CallGuard(TorchFunctionMode):
    """Sees every call of one of torch's Python functions before it runs."""

    def __init__(self, guard: BoundaryGuard) -> None:
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            if func is SETS_GRADIENTS:
                return func(*args)
        except BaseException:
            # Leaving `no_grad` comes past here, too: no interrupt may keep it from being left.
            if func is SETS_GRADIENTS:
                func(*args)
            raise
        kwargs = kwargs or {}
        if func not in DESCRIBING:
            self.guard.look(func, (args, kwargs))
        return func(*args, **kwargs)


class _OpGuard(TorchDispatchMode):
    """Sees every op before it runs."""

    def __init__(self, guard: BoundaryGuard) -> None:
        super().__init__()
        self.guard = guard

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not is_bookkeeping(func):
            self.guard.look(func, (args, kwargs))
        return func(*args, **kwargs)


_guards: "weakref.WeakSet[BoundaryGuard]" = weakref.WeakSet()
"""All there are: a fork copies the memory of all of them."""


def _guard_of(mode: object) -> BoundaryGuard | None:
    return mode.guard if isinstance(mode, (_CallGuard, _OpGuard)) else None


def _touch_all() -> None:
    """A forked process has none of the threads that could bring a storage back."""
    for guard in tuple(_guards):
        guard.touch("a fork")


def _leave_all() -> None:
    """A forked process makes no steps, so nobody else would take the modes from its stacks."""
    for guard in tuple(_guards):
        guard._leave_modes()


os.register_at_fork(before=_touch_all, after_in_child=_leave_all)
