"""Tensors that are several tensors, as libraries make them; small enough to read."""

from typing import Any

import torch
from torch.utils._pytree import tree_map


class Quantised(torch.Tensor):
    """Integers and a scale seen as floats, as quantised weights are; offers no way to its parts."""

    integers: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, integers: torch.Tensor, scale: torch.Tensor) -> "Quantised":
        made: Quantised = torch.Tensor._make_wrapper_subclass(
            cls, integers.shape, dtype=torch.float32
        )
        return made

    def __init__(self, integers: torch.Tensor, scale: torch.Tensor) -> None:
        self.integers, self.scale = integers, scale

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].integers, args[0].scale)
        bare = tree_map(lambda t: t.integers.float() * t.scale if isinstance(t, cls) else t, args)
        return func(*bare, **(kwargs or {}))
