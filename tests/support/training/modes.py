"""The modes that a training leaves on torch's stacks."""

from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.mode_stack import call_modes, op_modes


def modes_on() -> tuple[TorchFunctionMode | TorchDispatchMode, ...]:
    """Returns this thread's modes, those for calls first; a default device is none of a step's."""
    modes: tuple[TorchFunctionMode | TorchDispatchMode, ...] = (*call_modes(), *op_modes())
    return tuple(mode for mode in modes if not isinstance(mode, DeviceContext))
