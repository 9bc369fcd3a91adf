"""This thread's stacks of modes, changed whole and at any depth, whatever interrupts that.

[Note: the bottom of the stack] Torch's modes are a stack for each thread, and leaving one takes off
what is on top. A mode that is entered when one step ends and left when the next begins is not
nested with what its surroundings enter and leave: on top, it would be taken off in place of
another. At the bottom it is in no other mode's way, and what other modes run on behalf of an op
comes past it, too. Only a default device must be lower still: torch looks for that one at the very
bottom.

[Note: whole stacks] An interrupt may come between any two instructions, also between those that
take modes off and put them on again. So a stack is brought to what it shall be by steps that can
begin anew from wherever they were left, and they do before the interrupt is passed on: no other
mode is lost, and none stays. For the same reason modes are not entered by their own `__enter__`,
whose caller cannot know how far it came.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import _C, overrides
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

PATIENCE = 3
"""How many interrupts are held back: a user who goes on means it."""


def insist(act: Callable[[], None]) -> None:
    """Does what may begin anew from wherever it was left, again after an interrupt.

    Raises:
        KeyboardInterrupt: One came; it is done all the same, unless they came too often.
    """
    interrupt: KeyboardInterrupt | None = None
    for _ in range(PATIENCE):
        try:
            act()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            # Its traceback holds this frame: a cycle would keep the step's tensors for long.
            del interrupt


def keep_in_view(error: BaseException, fault: BaseException) -> None:
    """Has a user see an error with a note of a fault in cleaning up; but an interrupt before both.

    Raises:
        BaseException: The fault is an interrupt, and the error is not.
    """
    if isinstance(error, Exception) and not isinstance(fault, Exception):
        try:
            raise fault
        finally:
            del error, fault
    for note in getattr(fault, "__notes__", (f"swapplan: {type(fault).__name__}: {fault}",)):
        error.add_note(note)


Mode = TypeVar("Mode", TorchFunctionMode, TorchDispatchMode)

Hooks = tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]
"""What packs saved tensors, and what unpacks them."""


def call_modes() -> Sequence[TorchFunctionMode]:
    """Returns this thread's modes that see calls of Python functions, the lowest first."""
    return overrides._get_current_function_mode_stack()


def op_modes() -> Sequence[TorchDispatchMode]:
    """Returns this thread's modes that see ops, the lowest first."""
    return _python_dispatch._get_current_dispatch_mode_stack()


def unseen() -> AbstractContextManager[None]:
    """Returns a context in which no mode sees an op that is done: a copy is no op of the step."""
    return _C._DisableTorchDispatch()


def enter_calls_below(mode: TorchFunctionMode) -> None:
    """Enters a mode below all others but a default device."""
    others = call_modes()
    lowest = 1 if others and isinstance(others[0], DeviceContext) else 0
    _set_calls([*others[:lowest], mode, *others[lowest:]])


def enter_ops(mode: TorchDispatchMode, depth: int | None = None) -> None:
    """Enters a mode above so many others; above all if None: then it is asked first."""
    modes = op_modes()
    depth = len(modes) if depth is None else depth
    _set_ops([*modes[:depth], mode, *modes[depth:]])


def leave_calls(mode: TorchFunctionMode) -> None:
    """Leaves a mode, wherever in the stack it is, if it is."""
    modes = call_modes()
    if id(mode) in map(id, modes):
        _set_calls(_without(mode, modes))


def leave_ops(mode: TorchDispatchMode) -> None:
    """Leaves a mode, wherever in the stack it is, if it is."""
    modes = op_modes()
    _set_ops(_without(mode, modes) if id(mode) in map(id, modes) else modes)


def leave_saved_hooks(hooks: Hooks) -> None:
    """Takes a pair of hooks for saved tensors off this thread's stack, wherever it is, if it is."""
    above: list[Hooks] = []
    insist(lambda: _take_off_saved(hooks, above))


def _take_off_saved(hooks: Hooks, above: list[Hooks]) -> None:
    """Takes off what is above, then the hooks, and puts back the rest; may be called again."""
    top = _C._autograd._top_saved_tensors_default_hooks
    while (found := top(True)) is not None and found != hooks:
        # After an interrupt it may have been noted already, and not have been taken off.
        if not above or above[-1] != found:
            above.append(found)
        _C._autograd._pop_saved_tensors_default_hooks()
    if found is not None:
        _C._autograd._pop_saved_tensors_default_hooks()
    while above:
        if top(True) != above[-1]:
            _C._autograd._push_saved_tensors_default_hooks(*above[-1])
        above.pop()


def _without(mode: Mode, modes: Sequence[Mode]) -> Sequence[Mode]:
    return [other for other in modes if other is not mode]


def _set_calls(modes: Sequence[TorchFunctionMode]) -> None:
    insist(lambda: _set(modes, call_modes, overrides._pop_mode, overrides._push_mode))


def _set_ops(modes: Sequence[TorchDispatchMode]) -> None:
    def bring() -> None:
        _set(modes, op_modes, _python_dispatch._pop_mode, _python_dispatch._push_mode)
        _set_flags(modes)

    insist(bring)


def _set(
    modes: Sequence[Mode],
    current: Callable[[], Sequence[Mode]],
    pop: Callable[[], object],
    push: Callable[[Mode], None],
) -> None:
    """Makes a stack hold these modes, from whatever it holds."""
    found = current()
    same = 0
    while same < min(len(found), len(modes)) and found[same] is modes[same]:
        same += 1
    for _ in found[same:]:
        pop()
    for mode in modes[same:]:
        push(mode)


def _set_flags(modes: Sequence[TorchDispatchMode]) -> None:
    """Sets what compiled functions go by, as `TorchDispatchMode.__enter__` would."""
    dispatch: Any = _python_dispatch
    dispatch._is_in_torch_dispatch_mode = bool(modes)
    # Lists: an interrupt inside a generator that ends early would be passed over.
    if hasattr(dispatch, "_is_in_non_infra_torch_dispatch_mode"):
        others = [mode for mode in modes if not mode.is_infra_mode()]
        dispatch._is_in_non_infra_torch_dispatch_mode = bool(others)
    if hasattr(dispatch, "_is_in_any_mode_without_ignore_compile_internals"):
        heeding = [mode for mode in modes if not mode.ignore_compile_internals()]
        dispatch._is_in_any_mode_without_ignore_compile_internals = bool(heeding)
        dispatch.set_is_in_mode_without_ignore_compile_internals(bool(heeding))
