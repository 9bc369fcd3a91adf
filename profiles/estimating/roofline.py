"""A roofline: how long an op takes on a device, from what it computes and what it moves.

An op is bound by arithmetic or by memory, whichever is slower, at the rates its class reaches
there, and never takes less than it takes to start it:

    duration = max(launch, flops / flop rate of (class, precision), bytes / byte rate of class)

as the host starts ops while the device works. Left out: caches, several kernels in one op, and
what neighbours do.

The rates of an accelerator of the table are its figures times the share that ops reach. Two shares
are multiplied. The first is what the best op reaches of the data sheet's figure, as measured where
a measurement is known, otherwise assumed. The second is what ops of a class reach of that in a
training step; all of these are ASSUMED, from experience and not from any measurement, except where
a source is named. Compare them with `tests/benchmarks/bench_estimate.py` on a device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from profiles.hardware.accelerators import BEST_COPY_SHARE, BEST_MATMUL_SHARE, Accelerator
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass, Precision, class_of
from profiles.hooks.dispatch import tensors_in, tensors_of
from profiles.schema.profile import CUDA, Device


@dataclass(frozen=True, slots=True)
class OpCost:
    """What an op costs on any device.

    Attributes:
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


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The rates that ops reach on a device; not what its data sheet promises.

    Attributes:
        flops_per_us: Floating-point operations per us, by class and precision. A precision that is
            missing is done in fp32.
        bytes_per_us: Bytes read and written per us, by class.
        launch_us: What it takes to start an op.
    """

    flops_per_us: Mapping[tuple[OpClass, Precision], float]
    bytes_per_us: Mapping[OpClass, float]
    launch_us: float

    def duration_us(self, cost: OpCost) -> float:
        """Returns how long an op of this cost takes; a view or an allocation takes nothing."""
        if cost.op_class is OpClass.DESCRIPTION:
            return 0.0
        return max(self.launch_us, self.work_us(cost))

    def work_us(self, cost: OpCost) -> float:
        """Returns how long the device works on an op that is no view or allocation."""
        memory_us = cost.moved_bytes / self.bytes_per_us[cost.op_class]
        if not cost.flops:
            return memory_us
        rates = self.flops_per_us
        rate = rates.get((cost.op_class, cost.precision)) or rates[cost.op_class, Precision.FP32]
        return max(cost.flops / rate, memory_us)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a step is estimated for: a device, as the profile describes it, and its rates."""

    device: Device
    roofline: Roofline


FLOPS_PER_US = 1e6
"""Of one TFLOPS."""
BYTES_PER_US = 1e3
"""Of one GB/s."""
LAUNCH_US = 5.0
"""ASSUMED: what the host takes to start an op in eager mode."""

CLASS_SHARES: Mapping[OpClass, float] = MappingProxyType(
    {
        # A step's shapes are not the best ones.
        OpClass.MATMUL: 0.80,
        OpClass.CONVOLUTION: 0.60,
        # Dao 2023, arXiv:2307.08691, abstract: 50 to 73% of an A100's theoretical FLOPS.
        OpClass.ATTENTION: 0.65,
        OpClass.NORMALIZATION: 0.70,
        OpClass.REDUCTION: 0.80,
        OpClass.POOLING: 0.50,
        OpClass.GATHER: 0.50,
        OpClass.RANDOM: 0.70,
        OpClass.TRANSCENDENTAL: 0.90,
        OpClass.ELEMENTWISE: 0.90,
        OpClass.DESCRIPTION: 1.00,
    }
)
"""What ops of a class reach of the best matrix product, or of the best copy. ASSUMED."""


def target_of(accelerator: Accelerator) -> Target:
    """Returns what `estimate` needs to know of an accelerator."""
    name, memory_bytes = accelerator.product, accelerator.memory_bytes
    device = Device(kind=CUDA, name=name, memory_bytes=memory_bytes, compute_threads=0)
    return Target(device=device, roofline=accelerator_roofline(accelerator))


def accelerator_roofline(accelerator: Accelerator) -> Roofline:
    """Returns the rates that ops are taken to reach on an accelerator.

    Convolutions in fp32 run in tf32 where the device has it and matrix products do not, as torch
    does by default.
    """
    theory = accelerator.theory_tflops
    measured = accelerator.measured_tflops
    matmul_share = measured.value / theory[Precision.BF16] if measured else BEST_MATMUL_SHARE
    flops_per_us = {
        (op_class, precision): tflops * FLOPS_PER_US * matmul_share * CLASS_SHARES[op_class]
        for op_class in COMPUTE_CLASSES
        for precision, tflops in theory.items()
    }
    if Precision.TF32 in theory:
        in_tf32 = flops_per_us[OpClass.CONVOLUTION, Precision.TF32]
        flops_per_us[OpClass.CONVOLUTION, Precision.FP32] = in_tf32
    copied = accelerator.measured_gb_per_s
    gb_per_s = copied.value if copied else accelerator.theory_gb_per_s * BEST_COPY_SHARE
    # What feeds the arithmetic units comes in at the rate of a copy.
    shares = {c: 1.0 if c in COMPUTE_CLASSES else CLASS_SHARES[c] for c in OpClass}
    return Roofline(
        flops_per_us=MappingProxyType(flops_per_us),
        bytes_per_us=MappingProxyType(
            {op_class: gb_per_s * BYTES_PER_US * share for op_class, share in shares.items()}
        ),
        launch_us=LAUNCH_US,
    )


PRECISIONS = {
    torch.float64: Precision.FP64,
    torch.float32: Precision.FP32,
    torch.float16: Precision.FP16,
    torch.bfloat16: Precision.BF16,
}
WRITES_ONLY = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_"})
"""Ops that do not read what they write."""


def cost_of(op: OpOverload, args: Any, kwargs: Any, result: Any) -> OpCost:
    """Returns the cost of an op from what it was handed and what it returned; it may be fake."""
    op_class, name = class_and_name(op)
    if op_class is OpClass.DESCRIPTION:
        return FREE
    touched = list(tensors_in(op, args, kwargs))
    handed = {id(tensor) for tensor, _ in touched}
    written = [tensor for tensor, writes in touched if writes]
    written += [tensor for tensor in tensors_of(result) if id(tensor) not in handed]
    read = [tensor for tensor, writes in touched if not (writes and name in WRITES_ONLY)]
    floats = [tensor for tensor, _ in touched if tensor.dtype in PRECISIONS]
    largest = max(floats, key=torch.Tensor.numel, default=None)
    count = _COUNTED_HERE.get(op) or flop_registry.get(op.overloadpacket)
    return OpCost(
        op_class=op_class,
        precision=Precision.FP32 if largest is None else PRECISIONS[largest.dtype],
        flops=0 if count is None else int(count(*args, **kwargs, out_val=result)),
        moved_bytes=_moved_bytes(op_class, read, written),
    )


@cache
def class_and_name(op: OpOverload) -> tuple[OpClass, str]:
    """Returns the class and bare name of an op; those that touch no element are `DESCRIPTION`."""
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


_FLASH_FOR_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_FOR_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# torch counts attention on GPUs only.
_COUNTED_HERE: dict[OpOverload, Callable[..., int]] = {
    _FLASH_FOR_CPU.default: _cpu_attention,
    _FLASH_FOR_CPU_BACKWARD.default: _cpu_attention_backward,
}
