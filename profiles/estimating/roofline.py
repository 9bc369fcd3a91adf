"""A roofline: how long an op takes on a device, from what it computes and what it moves.

An op is bound by arithmetic or by memory, whichever is slower, at the rates its class reaches
there, and never takes less than it takes to start it:

    duration = max(launch, flops / flop rate of (class, precision), bytes / byte rate of class)

on an accelerator, whose host starts ops while the device works. On the CPU starting comes on top.
Left out: caches, several kernels in one op, and what neighbours do.

The roofline of an accelerator of the table: its figures times the share that ops reach.

Two shares are multiplied. The first is what the best op reaches of the data sheet's figure, as
measured where somebody did, otherwise assumed. The second is what ops of a class reach of that in
a training step; all of these are ASSUMED, from experience and not from any measurement, except
where a source is named. Compare them with `tests/benchmarks/bench_estimate.py` on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from profiles.estimating.op_cost import OpCost
from profiles.hardware.accelerators import BEST_COPY_SHARE, BEST_MATMUL_SHARE, Accelerator
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass, Precision
from profiles.schema.profile import CUDA, Device


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The rates that ops reach on a device; not what its data sheet promises.

    Attributes:
        flops_per_us: Floating-point operations per us, by class and precision. A precision that is
            missing is done in fp32.
        bytes_per_us: Bytes read and written per us, by class.
        launch_us: What it takes to start an op.
        describe_us: What a view or an allocation takes.
        launch_overlaps: Whether an op is started while the one before still runs.
    """

    flops_per_us: Mapping[tuple[OpClass, Precision], float]
    bytes_per_us: Mapping[OpClass, float]
    launch_us: float
    describe_us: float
    launch_overlaps: bool

    def duration_us(self, cost: OpCost) -> float:
        """Returns how long an op of this cost takes."""
        if cost.op_class is OpClass.DESCRIPTION:
            return self.describe_us
        work_us = max(self._compute_us(cost), cost.moved_bytes / self.bytes_per_us[cost.op_class])
        return max(self.launch_us, work_us) if self.launch_overlaps else self.launch_us + work_us

    def _compute_us(self, cost: OpCost) -> float:
        if not cost.flops:
            return 0.0
        rates = self.flops_per_us
        rate = rates.get((cost.op_class, cost.precision))
        return cost.flops / (rate or rates[cost.op_class, Precision.FP32])


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a step is estimated for.

    Attributes:
        device: The device, as the profile describes it.
        roofline: How long its ops take.
    """

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
    device = Device(
        kind=CUDA,
        name=accelerator.product,
        memory_bytes=accelerator.memory_bytes,
        compute_threads=0,
    )
    return Target(device=device, roofline=accelerator_roofline(accelerator))


def accelerator_roofline(accelerator: Accelerator) -> Roofline:
    """Returns the rates that ops are taken to reach on an accelerator.

    Convolutions in fp32 run in tf32 where the device has it and matrix products do not, as torch
    does unless told otherwise.
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
    return Roofline(
        flops_per_us=MappingProxyType(flops_per_us),
        bytes_per_us=MappingProxyType(
            {
                # What feeds the arithmetic units comes in at the rate of a copy.
                op_class: gb_per_s
                * BYTES_PER_US
                * (CLASS_SHARES[op_class] if op_class not in COMPUTE_CLASSES else 1.0)
                for op_class in OpClass
            }
        ),
        launch_us=LAUNCH_US,
        describe_us=0.0,
        launch_overlaps=True,
    )
