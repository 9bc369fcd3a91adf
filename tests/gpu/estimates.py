"""Estimated against measured times on the GPU at hand, by class of op."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import target_of
from profiles.hardware.accelerators import ACCELERATORS, Accelerator
from profiles.hardware.links import link_named
from profiles.recording.record import record
from profiles.schema.profile import Profile
from profiles.schema.units import time_text
from profiles.workloads.build import build
from tests.gpu.bench_device import BenchDevice
from tests.gpu.cases import Case
from tests.gpu.class_times import ClassTime, class_times
from tests.gpu.results import Results, Table


@dataclass(frozen=True, kw_only=True)
class EstimatedStep:
    """One step, measured and estimated.

    Attributes:
        workload: Which, with its settings.
        measured_us: From anchor to anchor on the device.
        estimated_us: The same, from the table of accelerators.
        measured_peak_bytes: The allocator's, with all it rounds up and kernels take meanwhile.
        estimated_peak_bytes: Of storages alone.
    """

    workload: str
    measured_us: float
    estimated_us: float
    measured_peak_bytes: int
    estimated_peak_bytes: int


def accelerator_at_hand(limited: BenchDevice) -> Accelerator | None:
    """Returns what the table of accelerators has of a device, if it has it."""
    name = limited.describe()["device"]
    return next((one for one in ACCELERATORS.values() if one.product == name), None)


def compare_estimates(
    limited: BenchDevice, cases: Sequence[Case], accelerator: Accelerator, results: Results
) -> None:
    """Records and estimates some steps; writes `estimates.json` and `estimates.md`."""
    pairs: list[tuple[Profile, Profile]] = []
    steps: list[EstimatedStep] = []
    for case in cases:
        print(f"{case.title}, estimated ...", file=sys.stderr)
        recording, guess = _profiles(limited, case, accelerator)
        limited.tidy()
        pairs.append((recording, guess))
        steps.append(estimated_step(case.title, recording, guess))
        classes = class_times(pairs)
        results.write("estimates", [*steps, *classes], [steps_table(steps), classes_table(classes)])


def _profiles(
    limited: BenchDevice, case: Case, accelerator: Accelerator
) -> tuple[Profile, Profile]:
    source, link = case.source(), link_named(accelerator.link)
    recording = record(limited.build(source), source=source, link=link)
    target = target_of(accelerator)
    return recording, estimate(lambda: build(source), target=target, source=source, link=link)


def estimated_step(workload: str, recording: Profile, guess: Profile) -> EstimatedStep:
    """Compares a step as it was measured with what was estimated of it."""
    return EstimatedStep(
        workload=workload,
        measured_us=recording.step_us,
        estimated_us=guess.step_us,
        measured_peak_bytes=recording.peak_bytes,
        estimated_peak_bytes=guess.peak_bytes,
    )


def steps_table(steps: Sequence[EstimatedStep]) -> Table:
    """Returns the steps for readers."""
    columns = ("workload", "measured", "estimated", "estimated / measured", "peaks, likewise")
    rows = [
        (
            step.workload,
            time_text(step.measured_us),
            time_text(step.estimated_us),
            f"{step.estimated_us / step.measured_us:.2f}",
            f"{step.estimated_peak_bytes / step.measured_peak_bytes:.3f}",
        )
        for step in steps
    ]
    return Table("Steps, estimated and measured", columns, rows)


def classes_table(classes: Sequence[ClassTime]) -> Table:
    """Returns the classes of ops for readers."""
    columns = ("class", "ops", "measured", "estimated", "estimated / measured", "median op")
    rows = [
        (
            one.op_class.value,
            str(one.ops),
            time_text(one.measured_us),
            time_text(one.estimated_us),
            f"{one.ratio:.2f}" if one.measured_us else "",
            "" if one.median_ratio is None else f"{one.median_ratio:.2f}",
        )
        for one in classes
    ]
    return Table("Classes of op, estimated and measured", columns, rows)
