"""Modes at the bottom of this thread's stacks of modes.

[Note: the bottom of the stack] Torch's modes are a stack for each thread, and whoever leaves one
takes off what is on top. A mode that is entered when one step ends and left when the next begins
is not nested with what its surroundings enter and leave: on top, it would be taken off in place of
somebody else's. At the bottom it is nobody's neighbour, and what other modes run on behalf of an op
comes past it, too. Only a default device must be lower still: torch looks for that one at the very
bottom.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import _C
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.overrides import _pop_mode as pop_call_mode
from torch.overrides import _push_mode as push_call_mode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
)
from torch.utils._python_dispatch import _pop_mode as pop_op_mode
from torch.utils._python_dispatch import _push_mode as push_op_mode

NOTHING_TO_LEAVE = nullcontext()

Mode = TypeVar("Mode")


def call_modes() -> Sequence[TorchFunctionMode]:
    """Returns this thread's modes that see calls of Python functions, the lowest first."""
    return _get_current_function_mode_stack()


def op_modes() -> Sequence[TorchDispatchMode]:
    """Returns this thread's modes that see ops, the lowest first."""
    return _get_current_dispatch_mode_stack()


def unseen() -> AbstractContextManager[object]:
    """Returns a context in which no mode sees an op: a copy is no op of the step.

    The modes stay on their stack and are passed by. Taking them off it and putting them back takes
    100 times as long, and a step does this for every copy.
    """
    if _C._len_torch_dispatch_stack():
        return _C._DisableTorchDispatch()
    return NOTHING_TO_LEAVE


def enter_calls_below(mode: TorchFunctionMode) -> None:
    """Enters a mode below all others but a default device."""
    above = [pop_call_mode() for _ in range(_C._len_torch_function_stack())]
    if above and isinstance(above[-1], DeviceContext):
        push_call_mode(above.pop())
    mode.__enter__()
    for other in reversed(above):
        push_call_mode(other)


def enter_ops_below(mode: TorchDispatchMode) -> None:
    """Enters a mode below all others."""
    enter_ops_at(mode, 0)


def enter_ops_at(mode: TorchDispatchMode, depth: int) -> None:
    """Enters a mode where so many others are below it."""
    above = [pop_op_mode() for _ in range(_C._len_torch_dispatch_stack() - depth)]
    mode.__enter__()
    for other in reversed(above):
        push_op_mode(other)


def leave_calls(mode: TorchFunctionMode) -> None:
    """Leaves a mode, wherever in the stack it is."""
    above = [pop_call_mode() for _ in _above(mode, call_modes())]
    mode.__exit__(None, None, None)
    for other in reversed(above):
        push_call_mode(other)


def leave_ops(mode: TorchDispatchMode) -> None:
    """Leaves a mode, wherever in the stack it is."""
    above = [pop_op_mode() for _ in _above(mode, op_modes())]
    mode.__exit__(None, None, None)
    for other in reversed(above):
        push_op_mode(other)


def _above(mode: Mode, stack: Sequence[Mode]) -> Sequence[Mode]:
    return stack[next(n for n, other in enumerate(stack) if other is mode) + 1 :]
