"""The roofline of this machine's CPU, measured on the spot: one op per class, at one size.

Each class is represented by the op that training runs most; those bound by memory on tensors that
do not fit in the caches. Nothing here is fitted to a workload.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import MappingProxyType

import torch
from torch.nn import functional

from profiles.estimating.roofline import OpCost, Roofline
from profiles.hardware.op_class import OpClass, Precision

ROUNDS = 5
LEAST_US = 20_000.0
"""A round repeats an op until this time is over."""
ELEMENTS = 1 << 23
"""Of a float32 tensor of 32 MiB."""
FLOAT_BYTES = 4
PRECISIONS = ((torch.float32, Precision.FP32), (torch.bfloat16, Precision.BF16))


_ONE = torch.ones(1)


@dataclass(frozen=True, kw_only=True)
class CpuRoofline(Roofline):
    """The processor works on ops itself, so starting one comes on top.

    Attributes:
        describe_us: What a view or an allocation takes.
    """

    describe_us: float

    def duration_us(self, cost: OpCost) -> float:
        if cost.op_class is OpClass.DESCRIPTION:
            return self.describe_us
        return self.launch_us + self.work_us(cost)


def measure_cpu_roofline() -> CpuRoofline:
    """Measures what ops of each class reach with torch's present number of threads.

    Takes a few seconds.
    """
    with torch.no_grad():
        launch_us = _duration_us(lambda: torch.neg(_ONE))
        return CpuRoofline(
            flops_per_us=MappingProxyType(_flops_per_us()),
            bytes_per_us=MappingProxyType(_bytes_per_us()),
            launch_us=launch_us,
            describe_us=_duration_us(lambda: _ONE.view(1)),
        )


def _flops_per_us() -> dict[tuple[OpClass, Precision], float]:
    rates = {}
    for dtype, precision in PRECISIONS:
        matrix = torch.rand(512, 512, dtype=dtype)
        multiply_us = _duration_us(partial(torch.mm, matrix, matrix))
        rates[OpClass.MATMUL, precision] = 2 * 512**3 / multiply_us
        # Two samples: torch has a slow path of its own for small batches of one.
        volume = torch.rand(2, 32, 32, 32, 32, dtype=dtype)
        weight = torch.rand(32, 32, 3, 3, 3, dtype=dtype)
        convolve_us = _duration_us(partial(functional.conv3d, volume, weight, padding=1))
        rates[OpClass.CONVOLUTION, precision] = 2 * 2 * 32 * 32 * 27 * 32**3 / convolve_us
        heads = torch.rand(1, 8, 256, 64, dtype=dtype)
        attend = partial(functional.scaled_dot_product_attention, heads, heads, heads)
        rates[OpClass.ATTENTION, precision] = 4 * 8 * 256**2 * 64 / _duration_us(attend)
    return rates


def _bytes_per_us() -> dict[OpClass, float]:
    """Rates by bytes read and written, as `op_cost` counts them."""
    row = torch.rand(ELEMENTS)
    rows = row.view(-1, 256)
    picture = row.view(1, 128, 256, 256)
    index = torch.randint(0, len(rows), (len(rows),))
    size_bytes = ELEMENTS * FLOAT_BYTES
    copied = 2 * size_bytes / _duration_us(row.clone)
    rates = dict.fromkeys(OpClass, copied)
    rates[OpClass.ELEMENTWISE] = 3 * size_bytes / _duration_us(lambda: row + row)
    rates[OpClass.TRANSCENDENTAL] = 2 * size_bytes / _duration_us(lambda: functional.gelu(row))
    rates[OpClass.NORMALIZATION] = (
        2 * size_bytes / _duration_us(lambda: functional.layer_norm(rows, (256,)))
    )
    rates[OpClass.REDUCTION] = 2 * size_bytes / _duration_us(lambda: rows.softmax(dim=1))
    rates[OpClass.POOLING] = (size_bytes + size_bytes // 4 * 3) / _duration_us(
        lambda: torch.ops.aten.max_pool2d_with_indices(picture, 2)
    )
    rates[OpClass.GATHER] = 2 * size_bytes / _duration_us(lambda: functional.embedding(index, rows))
    rates[OpClass.RANDOM] = size_bytes / _duration_us(lambda: torch.empty_like(row).bernoulli_(0.9))
    return rates


def _duration_us(run: Callable[[], object]) -> float:
    """Median over rounds of the mean time of a call."""
    run()
    return median(_round_us(run) for _ in range(ROUNDS))


def _round_us(run: Callable[[], object]) -> float:
    start, calls, taken_us = time.perf_counter(), 0, 0.0
    while taken_us < LEAST_US:
        run()
        calls += 1
        taken_us = (time.perf_counter() - start) * 1e6
    return taken_us / calls
