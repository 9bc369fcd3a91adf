"""Where real tensors enter an estimate: each becomes its fake twin before anybody sees it."""

import sys
from types import FrameType
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import graph
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from profiles.dispatch import tensors_in
from profiles.twins import Twins

CPU = torch.device("cpu")
ASKS_DEVICE = torch.ops.prim.device.default
ENGINE = graph._engine_run_backward.__code__
HELD_BACK_BY = frozenset({"disable_fn", "inner", "_fn"})


class Entrance(TorchDispatchMode):
    """The outermost mode of an estimate.

    What a step makes is fake from the start, except what it takes from elsewhere: numbers in
    Python lists, NumPy arrays, files. Those are on the CPU until the step moves them.
    """

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        self._twins = twins

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is ASKS_DEVICE:
            return CPU if _asked_by_engine() else args[0].device
        kwargs = kwargs or {}
        if any(not isinstance(tensor, FakeTensor) for tensor, _ in tensors_in(func, args, kwargs)):
            args, kwargs = tree_map_only(
                torch.Tensor, lambda tensor: self._twins.of(tensor, CPU), (args, kwargs)
            )
        return func(*args, **kwargs)


def _asked_by_engine() -> bool:
    """Whether it is autograd's engine that asks for a device, not an op or the user.

    [Note: the engine and absent devices] For a gradient on an accelerator the engine looks up that
    accelerator's streams, which fails where there is none. A fake gradient needs no stream, and the
    engine does not compare the devices of tensor subclasses, so it is told that the gradient is on
    the CPU. Everybody else, recomputation inside backward included, is told the truth.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name in HELD_BACK_BY:
        frame = frame.f_back
    return frame is not None and frame.f_code is ENGINE
