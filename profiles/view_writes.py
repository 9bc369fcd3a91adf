"""Makes autograd treat a fake view that is written in place as it treats a real one."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes


class ViewWrites(TorchFunctionMode):
    """Hands on, in place of a view that was written, the same view made by `as_strided`.

    [Note: views written in place] Once a view has been written, autograd needs a new gradient
    function for it. For a real tensor it takes that of `as_strided`, whose backward fills a new
    storage of the base's size. For a tensor subclass it runs the original view again, and needs
    no such storage. An estimate must count what the real step does: in a U-Net, which activates in
    place what instance normalization has reshaped, that storage is as large as the activation. So
    the function that writes returns a view made by `as_strided`, outside the trace, for in the
    real step nothing is run for it. Who keeps using the written tensor itself, not what the
    function returned, gets the subclass's way.

    Attributes:
        view: The view that the function now running may write, None outside.
        is_written: Whether it has been written, as the trace tells. From then on a view of its
            storage is one that autograd runs again, which the real step does not.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self.view: torch.Tensor | None = None
        self.is_written = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (args and _is_view_with_gradient(args[0])):
            return func(*args, **(kwargs or {}))
        self.view, self.is_written = args[0], False
        version = args[0]._version
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.view = None
        if result is args[0] and result._version > version:
            with _disable_current_modes(), self._mode:
                return result._base.as_strided(
                    result.size(), result.stride(), result.storage_offset()
                )
        return result


def _is_view_with_gradient(tensor: Any) -> bool:
    return isinstance(tensor, FakeTensor) and tensor._is_view() and tensor.requires_grad
