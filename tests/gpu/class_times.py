"""Estimated and measured times of steps, by class of op."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import torch

from profiles.estimating.roofline import class_and_name
from profiles.hardware.op_class import OpClass
from profiles.schema.profile import Op, Profile


@dataclass(frozen=True, kw_only=True)
class ClassTime:
    """The ops of one class in some steps.

    Attributes:
        op_class: The class.
        ops: Their number, as measured.
        measured_us: The sum of their measured times.
        estimated_us: The sum of the estimated times of such ops.
        median_ratio: Estimated over measured of the median op; None if other ops were estimated
            than measured.
    """

    op_class: OpClass
    ops: int
    measured_us: float
    estimated_us: float
    median_ratio: float | None

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimated_us / self.measured_us


def class_times(steps: Iterable[tuple[Profile, Profile]]) -> tuple[ClassTime, ...]:
    """Compares steps, each as measured and as estimated; the class that took most comes first."""
    measured: dict[OpClass, list[Op]] = defaultdict(list)
    estimated: dict[OpClass, list[Op]] = defaultdict(list)
    for recording, estimate in steps:
        for profile, by_class in ((recording, measured), (estimate, estimated)):
            for op in profile.ops:
                by_class[_class(op)].append(op)
    found = (_compared(one, ops, estimated[one]) for one, ops in measured.items())
    return tuple(sorted(found, key=lambda one: -one.measured_us))


def _compared(op_class: OpClass, measured: list[Op], estimated: list[Op]) -> ClassTime:
    same = [op.name for op in measured] == [op.name for op in estimated]
    ratios = [
        guess.duration_us / op.duration_us
        for guess, op in zip(estimated, measured, strict=False)
        if op.duration_us
    ]
    return ClassTime(
        op_class=op_class,
        ops=len(measured),
        measured_us=sum(op.duration_us for op in measured),
        estimated_us=sum(op.duration_us for op in estimated),
        median_ratio=median(ratios) if same and ratios else None,
    )


def _class(op: Op) -> OpClass:
    namespace, packet, overload = op.name.split(".")
    return class_and_name(getattr(getattr(getattr(torch.ops, namespace), packet), overload))[0]
