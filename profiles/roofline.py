"""A roofline: how long an op takes on a device, from what it computes and what it moves.

An op is bound by arithmetic or by memory, whichever is slower, at the rates its class reaches
there, and never takes less than it takes to start it:

    duration = max(launch, flops / flop rate of (class, precision), bytes / byte rate of class)

on an accelerator, whose host starts ops while the device works. On the CPU starting comes on top.
Left out: caches, several kernels in one op, and what neighbours do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from profiles.op_class import OpClass, Precision
from profiles.op_cost import OpCost
from profiles.profile import Device


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
