"""What an op costs: floating-point operations and bytes to and from memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from profiles.hardware.op_class import OpClass, Precision, class_of
from profiles.hooks.dispatch import tensors_in, tensors_of

PRECISIONS = {
    torch.float64: Precision.FP64,
    torch.float32: Precision.FP32,
    torch.float16: Precision.FP16,
    torch.bfloat16: Precision.BF16,
}
WRITES_ONLY = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_"})
"""Ops that do not read what they write."""


@dataclass(frozen=True, slots=True)
class OpCost:
    """What an op costs on any device.

    Attributes:
        op_class: Its class.
        precision: The precision of its largest floating-point input.
        flops: Floating-point operations of matrix products, convolutions and attention; 0 for all
            others, which memory bounds.
        moved_bytes: Bytes read and written, each tensor once.
    """

    op_class: OpClass
    precision: Precision
    flops: int
    moved_bytes: int


FREE = OpCost(OpClass.DESCRIPTION, Precision.FP32, 0, 0)


def cost_of(op: OpOverload, args: Any, kwargs: Any, result: Any) -> OpCost:
    """Returns the cost of an op from what it was handed and what it returned.

    Args:
        op: The op.
        args: Its positional arguments.
        kwargs: Its other arguments.
        result: Its result; tensors may be fake.
    """
    op_class, name = _class_and_name(op)
    if op_class is OpClass.DESCRIPTION:
        return FREE
    touched = list(tensors_in(op, args, kwargs))
    handed = {id(tensor) for tensor, _ in touched}
    written = [tensor for tensor, writes in touched if writes]
    written += [tensor for tensor in tensors_of(result) if id(tensor) not in handed]
    read = [tensor for tensor, writes in touched if not (writes and name in WRITES_ONLY)]
    return OpCost(
        op_class=op_class,
        precision=_precision(touched),
        flops=_flops(op, args, kwargs, result),
        moved_bytes=_moved_bytes(op_class, read, written),
    )


def class_of_op(op: OpOverload) -> OpClass:
    """Returns the class of an op; those that touch no element are `DESCRIPTION`."""
    return _class_and_name(op)[0]


@cache
def _class_and_name(op: OpOverload) -> tuple[OpClass, str]:
    name = op._schema.name.partition("::")[2]
    in_place_view = torch.Tag.inplace_view in op.tags
    if op.is_view or in_place_view or name.startswith(("empty", "new_empty", "lift_fresh")):
        return OpClass.DESCRIPTION, name
    return class_of(name), name


def _moved_bytes(op_class: OpClass, read: list[torch.Tensor], written: list[torch.Tensor]) -> int:
    read_bytes = [_touched_bytes(tensor) for tensor in read]
    written_bytes = sum(map(_touched_bytes, written))
    if op_class is OpClass.GATHER and read_bytes:
        # Of the largest tensor only the rows that are asked for are touched.
        rest_bytes = sum(read_bytes) - max(read_bytes)
        return rest_bytes + 2 * min(written_bytes, max(read_bytes))
    return sum(read_bytes) + written_bytes


def _touched_bytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements a tensor has in memory; an expanded dimension is there once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride or not size:
            elements *= size
    return elements * tensor.itemsize


def _precision(touched: list[tuple[torch.Tensor, bool]]) -> Precision:
    floats = [tensor for tensor, _ in touched if tensor.dtype in PRECISIONS]
    if not floats:
        return Precision.FP32
    return PRECISIONS[max(floats, key=torch.Tensor.numel).dtype]


def _flops(op: OpOverload, args: Any, kwargs: Any, result: Any) -> int:
    count = _COUNTED_HERE.get(op) or flop_registry.get(op.overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=result))


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, _per_head(key, query), _per_head(value, query))


def _cpu_attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(
        gradient.shape, query.shape, _per_head(key, query), _per_head(value, query)
    )


def _per_head(tensor: Any, query: Any) -> torch.Size:
    """Returns the shape of keys or values that groups of heads share, as if each head had its own.

    Not every version of torch counts shared ones.
    """
    return torch.Size((*tensor.shape[:-3], query.shape[-3], *tensor.shape[-2:]))


# torch counts attention on GPUs only.
_COUNTED_HERE: dict[OpOverload, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default: (
        _cpu_attention_backward
    ),
}
