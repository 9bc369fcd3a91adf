"""Keeps the stretch between two steps safe, in which a plan may have storages away.

There, any code runs: evaluation, saving, logging. Reading an emptied storage would end the
process, and writing one that a copy is reading would lose the write. So before such a storage is
touched all of them are brought back.

[Note: what is seen between steps] Two modes see what this thread does: one sees ops, and one sees
calls of torch's Python functions, which may reach a tensor's memory without any op (`numpy`,
`data_ptr`, pickling). Other threads have modes of their own. Of them only calls of the model and
its `state_dict` are seen, and addresses they take (`runtime.replay.attached_hooks`); so are forks,
which wait for everything to come back. Not seen are another thread's own access to a parameter, and
memory whose address was taken earlier. Where torch has been built for CUDA, that is an error rather
than a crash (`runtime.storage.residency`).

[Note: modes stay until the next step] Once everything is back the modes let all pass, but they stay
on the stacks until the next step begins: what touches a storage may be called from inside torch,
which keeps what it knows of its stacks during the call (a compiled function does), and would be
left with modes that are gone.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.dispatch import is_bookkeeping, storages_of
from profiles.hooks.mode_stack import (
    call_modes,
    enter_calls_below,
    enter_ops,
    leave_calls,
    leave_ops,
    op_modes,
)
from runtime.storage.guarded_storages import MovedStorage

_READ = (
    *("_backward_hooks", "_base", "_cdata", "_grad_fn", "_has_symbolic_sizes_strides"),
    *("_post_accumulate_grad_hooks", "_python_dispatch", "_version", "device", "dtype"),
    *("grad", "grad_dtype", "grad_fn", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_mkldnn"),
    *("is_mps", "is_mtia", "is_nested", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan"),
    *("is_xla", "is_xpu", "itemsize", "layout", "name", "nbytes", "ndim", "output_nr"),
    *("requires_grad", "retains_grad", "shape"),
)
_WRITTEN = ("_backward_hooks", "grad", "requires_grad")
_METHODS = (
    *("__len__", "dim", "element_size", "get_device", "is_complex", "is_contiguous"),
    *("is_floating_point", "ndimension", "nelement", "numel", "register_hook"),
    *("register_post_accumulate_grad_hook", "requires_grad_", "retain_grad", "size"),
    *("storage_offset", "stride"),
)
_FUNCTIONS = ("is_complex", "is_floating_point", "numel")


def _functions() -> Iterator[Callable[..., Any]]:
    """Yields them as torch names them to a mode; those this version of torch has."""
    for names, method in ((_READ, "__get__"), (_WRITTEN, "__set__"), (_WRITTEN, "__delete__")):
        for name in names:
            if hasattr(torch.Tensor, name):
                yield getattr(getattr(torch.Tensor, name), method)
    yield from (getattr(torch.Tensor, name) for name in _METHODS)
    yield from (getattr(torch, name) for name in _FUNCTIONS)


DESCRIBING = frozenset(_functions())
"""Functions that say what a tensor is and never reach its memory."""


Guarded = dict[int, MovedStorage]


class BoundaryGuard:
    """Calls back before a guarded storage is touched."""

    def __init__(self, restore: Callable[[], None], restored: Callable[[str], None]) -> None:
        """Makes a guard that is not active.

        Args:
            restore: Brings everything back. After it nothing is guarded.
            restored: Called when that is done, with what asked for it, and with no lock held.
        """
        self._restore, self._restored = restore, restored
        self._guarded: Guarded = {}
        # As long as not all are back: another thread may be bringing what was guarded back.
        self._away: Guarded = {}
        self._lock = threading.RLock()
        self._calls, self._ops = _CallGuard(self), _OpGuard(self)
        _guards[:] = [*(guard for guard in _guards if guard() is not None), weakref.ref(self)]

    def enter(self, moved: Iterable[MovedStorage]) -> None:
        """Begins a stretch between two steps; these storages must not be touched."""
        guarded = {one.cdata: one for one in moved}
        self._away = guarded
        self._guarded = guarded
        if guarded:
            self._enter_modes()

    def leave(self) -> None:
        """Ends the stretch: nothing is guarded."""
        with self._lock:
            self._guarded = self._away = {}
            self.leave_modes()

    def end(self, restore: Callable[[], None]) -> None:
        """Ends the stretch for good: as long as not everything is back, it goes on."""
        with self._lock:
            restore()
            self.leave()

    def touch(self, what: str) -> None:
        """Brings everything back if anything is guarded; may be called in any thread.

        What another thread is bringing back is there when this returns. `what` says what asks.
        """
        with self._lock:
            if not self._guarded:
                return
            guarded, self._guarded = self._guarded, {}
            try:
                self._restore()
            except BaseException:
                self._guarded = guarded
                raise
            self._away = {}
        self._restored(what)

    def look(self, what: object, arguments: Any) -> None:
        """Brings everything back if a tensor among the arguments is guarded."""
        if self._away and list(filter(self._is_away, storages_of(arguments))):
            self.touch(str(getattr(what, "__name__", what)))

    def look_at(self, storage: torch.UntypedStorage) -> None:
        """Brings everything back if a storage is guarded whose address is taken."""
        if self._is_away(storage):
            self.touch("code that is no op")

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Sees nothing of what this thread does inside, which costs it nothing either."""
        try:
            self.leave_modes()
            yield
        finally:
            try:
                if self._guarded:
                    self._enter_modes()
            except BaseException:
                # What is touched unseen must not be away.
                self.touch("an interrupt")
                raise

    def _is_away(self, storage: torch.UntypedStorage) -> bool:
        """Whether it is guarded, and not another one at the address of one that has died."""
        moved = self._away.get(storage._cdata)
        return moved is not None and moved.is_held_as(storage)

    def _enter_modes(self) -> None:
        if self._ops not in op_modes():
            enter_ops(self._ops, 0)
        if self._calls not in call_modes():
            enter_calls_below(self._calls)

    def leave_modes(self) -> None:
        """Takes the guard's modes off this thread's stacks, if they are there."""
        leave_calls(self._calls)
        leave_ops(self._ops)


SETS_GRADIENTS = torch._C._set_grad_enabled


class _CallGuard(TorchFunctionMode):
    """Sees every call of one of torch's Python functions before it runs."""

    def __init__(self, guard: BoundaryGuard) -> None:
        super().__init__()
        self._guard = guard

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
            self._guard.look(func, (args, kwargs))
        return func(*args, **kwargs)


class _OpGuard(TorchDispatchMode):
    """Sees every op before it runs."""

    def __init__(self, guard: BoundaryGuard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not is_bookkeeping(func):
            self._guard.look(func, (args, kwargs))
        return func(*args, **kwargs)


_guards: "list[weakref.ref[BoundaryGuard]]" = []
"""All there are: a fork copies the memory of all of them.

References without callbacks: an interrupt that comes in a callback is printed and passed over.
"""


def _touch_all() -> None:
    """A forked process has none of the threads that could bring a storage back."""
    for reference in tuple(_guards):
        if guard := reference():
            guard.touch("a fork")


def _leave_all() -> None:
    """A forked process makes no steps, which would take the modes from its stacks."""
    for reference in tuple(_guards):
        if guard := reference():
            guard.leave_modes()


os.register_at_fork(before=_touch_all, after_in_child=_leave_all)
