"""Looks at every op of a step that is not watched, as cheaply as a dispatch mode can.

[Note: guarded steps] A step may do what no recorded one did: clip weights every sixth time, write a
parameter through `.data` in a hook. No anchor announces that, so each op is looked at before it
runs, in every step:

- One that is handed a storage which is away or moving makes the step fall back first, as in a
  watched step. So nothing reads an emptied storage or one whose bytes are under way, and nothing
  writes what a copy is reading.
- One that writes a storage with a host copy makes the next clean swap copy.
- One that writes what a dropped storage is rebuilt from makes the step fall back first, too.

Seen is every op that torch dispatches in the thread that trains and in the threads that its
backward runs in (torch hands the modes on): in place, through `.data`, through views, `out=`,
`foreach` and `fused` ops, in hooks and in `autograd.Function`; what a tensor subclass runs inside;
writes that schemas hide, if `profiles.hooks.dispatch` lists them. A compiled function runs op by op
while a mode looks on. Inside `optimizer.step()`, if the plan acts there, the mode that finds
updates looks in this one's place (`profiles.hooks.optimizer_updates.Relieved`).

Not seen are other threads, kernels that are given an address, and memory that NumPy shares. Of
these, on the emulated device, writes of a storage that is leaving, returning or relied on as copied
are found later (`runtime.storage.write_marks`); on every device a clean swap looks at the tensor's
version, which counts all writes that autograd counts. Any access to a storage that is away is an
error where torch has been built for CUDA (`runtime.storage.residency`), and ends the process
elsewhere.

[Note: what looking costs] Most of it is torch's: it leaves C++ for Python and comes back, for each
op. In a loop of one small op this takes 2.5 us and looking 0.3 to 0.5 us more; in a real step,
whose tensors push all else out of the caches, both take several times as long: 11 us an op on a
busy machine, as much as a mode that does nothing, and looking at most 2 us of that. An op that
writes nothing is only looked at for storages that are away or moving
(`tests/benchmarks/bench_replay_overhead.py`). On a GPU that is behind its host it takes no time.
"""

from collections.abc import Collection
from typing import Any, Self

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch._ops import OpOverload
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.dispatch import (
    HOLDS_NO_TENSOR,
    is_bookkeeping,
    run_itself,
    storages_in,
    written_arguments,
)
from profiles.hooks.draws import draw_of
from profiles.hooks.mode_stack import enter_ops, leave_ops, op_modes
from profiles.hooks.plain_tensors import storage_id_of
from runtime.storage.guarded_storages import GuardedStorages

_CAN_MARK_AS_UNCOMPILED = hasattr(eval_frame, "set_code_exec_strategy") and hasattr(
    eval_frame, "_FrameExecStrategy"
)


def _runs_its_own_ops(kind: type[Tensor]) -> bool:
    return kind.__torch_dispatch__ is not Tensor.__torch_dispatch__


class OpGuard(TorchDispatchMode):
    """Has forbidden uses and unexpected writes acted upon; lets all other ops pass."""

    supports_higher_order_operators = True

    def __init__(self, guarded: GuardedStorages) -> None:
        """Makes a guard that is not active."""
        super().__init__()
        self._guarded = guarded
        self._addresses = guarded.addresses
        self._looked_for: dict[OpOverload, Collection[int]] = {}
        self._depth_aside: int | None = None

    def step_aside(self) -> None:
        """Leaves this thread's stack; see `profiles.hooks.optimizer_updates.Relieved`.

        On a detour it stays: whoever looks in its place would not take it.
        """
        stack = op_modes()
        if self in stack and self._guarded.detour is None:
            self._depth_aside = stack.index(self)
            leave_ops(self)

    def step_in(self) -> None:
        """Comes back to where it was."""
        if self._depth_aside is not None:
            enter_ops(self, self._depth_aside)
            self._depth_aside = None

    def look_from_aside(self, func: OpOverload, types: Any, args: Any, kwargs: Any) -> bool:
        """Looks at an op that another mode has before it, while this one stands aside."""
        if self._depth_aside is None:
            return False
        if types and any(map(_runs_its_own_ops, types)):
            return True
        if self._addresses and self._hits(func, args, kwargs):
            self._look(func, args, kwargs)
        return False

    def makes_room_from_aside(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Has room made for an op that the other mode has run: leaving the plan, it steps in."""
        return self._depth_aside is not None and self._guarded.makes_room(func, args, kwargs)

    def __enter__(self) -> Self:
        self._depth_aside = None
        enter_ops(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Looks no more, wherever in the stack it is; may be repeated."""
        leave_ops(self)
        self._depth_aside = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch wraps the method below so that nothing compiles it: 0.7 us an op."""
        return not _CAN_MARK_AS_UNCOMPILED

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if types and any(map(_runs_its_own_ops, types)):
            # What the subclass runs for this op passes here.
            return NotImplemented
        if self._addresses and self._guarded.detour is None and self._hits(func, args, kwargs):
            self._look(func, args, kwargs)
        # Looking may have set it.
        while self._guarded.detour is None or is_bookkeeping(func):
            draw = draw_of(func, args, kwargs or {})
            try:
                if self._guarded.notes.is_on:
                    return self._guarded.notes.run(func, args, kwargs or {})
                # An op's own call adds nothing but a frame.
                call = func._op if func.__class__ is OpOverload else func
                return call(*args, **kwargs) if kwargs else call(*args)
            except torch.OutOfMemoryError:
                if draw is not None:
                    draw.take_back()
                if not self._guarded.makes_room(func, args, kwargs or {}):
                    raise
        return self._guarded.detour(func, args, kwargs or {}, run_itself)

    def _hits(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Whether a storage that an op must not do this to may be among its arguments."""
        looked_for = self._looked_for.get(func)
        if looked_for is None:
            looked_for = self._looked_for[func] = self._addresses_for(func)
        return bool(looked_for) and _are_among(looked_for, args, kwargs)

    def _addresses_for(self, func: OpOverload) -> Collection[int]:
        """Returns where the storages are that an op may not touch or, if it writes, not write."""
        if not isinstance(func, OpOverload) or is_bookkeeping(func):
            return ()
        return self._addresses if written_arguments(func) else self._guarded.forbidden

    def _look(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        for storage, writes in storages_in(func, args, kwargs or {}).items():
            self._guarded.look(func, storage, writes=writes)


def _are_among(addresses: Collection[int], args: Any, kwargs: Any) -> bool:
    """Whether a storage at one of some addresses may be among the arguments of an op."""
    try:
        for value in args:
            kind = value.__class__
            if kind is Tensor or kind is Parameter:
                if storage_id_of(value) in addresses:
                    return True
            elif kind not in HOLDS_NO_TENSOR and _are_in(addresses, value):
                return True
        return bool(kwargs) and _are_among(addresses, (*kwargs.values(),), None)
    except NotImplementedError:
        # A tensor without a storage of its own (sparse).
        return True


def _are_in(addresses: Collection[int], value: Any) -> bool:
    if isinstance(value, Tensor):
        return storage_id_of(value) in addresses
    if not isinstance(value, (list, tuple)) or (value and value[0].__class__ is int):
        return False
    return _are_among(addresses, value, None)


def _mark_as_uncompiled() -> None:
    """Keeps torch from compiling what the guard does for an op, and all that it calls."""
    skip = eval_frame._FrameAction.SKIP
    strategy = eval_frame._FrameExecStrategy(skip, skip)
    eval_frame.set_code_exec_strategy(OpGuard.__torch_dispatch__.__code__, strategy)


if _CAN_MARK_AS_UNCOMPILED:
    _mark_as_uncompiled()
