"""A workload of which one setting grows, estimated for a device that need not be there."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING

from planner.cli.request import PlanRequest
from planner.studies.limits import (
    Footprint,
    Limits,
    LimitsRow,
    find_limits,
    footprint,
    settings_between,
)
from planner.studies.sweep import SweepPoint, SweepRow, SweepSettings, solve_points
from profiles.hardware.accelerators import Accelerator, accelerator_named
from profiles.schema.errors import QuantityError, WorkloadError
from profiles.schema.profile import Profile, WorkloadSource
from profiles.schema.progress import Progress, silent
from runtime.cli.profile import estimate_step, is_run_on, usual_link

if TYPE_CHECKING:
    from profiles.workloads.catalog import Builtin

SET_ASIDE_BYTES = 1 << 30
"""Of a device's memory: taken, not measured, to be what CUDA's context and fragments use."""
MOST_TRIED = 1 << 20
"""The largest value of a setting of which nothing says how large it may be."""


class Growing:
    """A workload of which one setting grows.

    Attributes:
        others: The workload, with the settings that stay as they are.
        key: The setting.
        numbers: What it may be, rising.
        accelerator: What it is estimated for.
        profile: Estimates the step with one value of the setting, once.
    """

    def __init__(
        self, others: WorkloadSource, key: str, numbers: Sequence[int], accelerator: Accelerator
    ) -> None:
        self.others = others
        self.key = key
        self.numbers = numbers
        self.accelerator = accelerator
        self.profile = cache(self._estimate)

    @property
    def title(self) -> str:
        """The workload with the settings that stay."""
        settings = (f" {key}={value}" for key, value in self.others.settings)
        return self.others.reference + "".join(settings)

    @property
    def about(self) -> dict[str, str]:
        """What every plan for it has in common."""
        return {"workload": self.title, "grown": self.key, "device": self.accelerator.name}

    @property
    def usable_bytes(self) -> int:
        """What a step can use of the device's memory."""
        return self.accelerator.memory_bytes - SET_ASIDE_BYTES

    def _estimate(self, number: int) -> Profile:
        device = self.accelerator.name
        settings = (*self.others.settings, (self.key, str(number)))
        source = self.others.model_copy(update={"settings": settings})
        try:
            return estimate_step(source, usual_link(device), device, silent)
        except (RuntimeError, ValueError) as error:
            # Too small a number can be one that the step itself refuses.
            raise WorkloadError(
                f"{self.title} {self.key}={number} cannot be estimated: {error} If the number is "
                "too small, --multiple-of keeps it out."
            ) from error


def choose_growing(
    reference: str,
    *,
    key: str,
    device: str,
    settings: tuple[tuple[str, str], ...],
    seed: int,
    multiple_of: int | None = None,
) -> Growing:
    """Returns a workload whose setting `key` grows, by what the workload takes or `multiple_of`.

    Raises:
        QuantityError: There is no such device, or no such numbers.
        WorkloadError: There is no such workload or setting, or it is no number.
    """
    from profiles.workloads.build import check
    from profiles.workloads.catalog import WORKLOADS

    if is_run_on(device):
        raise QuantityError(
            f"--device is {device!r}, but nothing is run here: steps are estimated. Name an "
            "accelerator such as v100-16gb or h200."
        )
    if any(given == key for given, _ in settings):
        raise QuantityError(f"--set {key} and --grow {key}: it grows, so leave it out of --set.")
    others = WorkloadSource(reference=reference, settings=settings, seed=seed)
    check(others)
    builtin = WORKLOADS.get(reference)
    numbers = range(1, MOST_TRIED + 1) if builtin is None else _numbers_of(builtin, key)
    most = numbers[-1]
    if multiple_of is not None:
        numbers = tuple(number for number in numbers if number % multiple_of == 0)
    if not numbers:
        raise QuantityError(
            f"--multiple-of is {multiple_of}, but {key} is at most {most}. Give a smaller one."
        )
    return Growing(others, key, numbers, accelerator_named(device))


def _numbers_of(builtin: "Builtin", key: str) -> Sequence[int]:
    growing = {one.name: one.numbers for one in builtin.settings if one.numbers is not None}
    if key not in growing:
        raise WorkloadError(
            f"{builtin.name} has no setting {key!r} that is a whole number. --grow takes "
            f"{', '.join(growing)}."
        )
    return growing[key]


@dataclass
class LimitsSearch:
    """Finds the limits of a workload whose setting grows, and plans up to them.

    Attributes:
        processes: How many plans are made at once.
        limits: Those found: one per number of host bytes for a worker.
        rows: The plans finished.
        wanted: How many plans there will be.
    """

    grown: Growing
    request: PlanRequest
    budget_bytes: int
    settings: SweepSettings
    processes: int
    limits: list[Limits] = field(default_factory=list)
    rows: list[LimitsRow] = field(default_factory=list)
    wanted: int = 0

    def run(self, points: int, progress: Progress) -> None:
        """Finds the limits and plans some settings; what is finished is there however it ends."""
        numbers = self.grown.numbers
        choices = self.request.choices(self.grown.profile(numbers[0]))
        workers_of = Counter(choice.host_budget_bytes for choice in choices)
        for host_bytes in workers_of:
            self.limits.append(self._find(host_bytes, progress))
        jobs = [
            (limits, number)
            for limits in self.limits
            for number in settings_between(numbers, limits, points)
        ]
        self.wanted = sum(workers_of[limits.host_budget_bytes] for limits, _ in jobs)
        for limits, number in jobs:
            self._plan(limits, number, progress)

    def _find(self, host_bytes: int | None, progress: Progress) -> Limits:
        numbers, tried = self.grown.numbers, count()

        @cache
        def footprint_of(number: int) -> Footprint:
            # At most: doubling, and halving twice.
            progress("finding the limits", next(tried), 3 * len(numbers).bit_length())
            return footprint(
                number,
                self.grown.profile(number),
                budget_bytes=self.budget_bytes,
                host_budget_bytes=host_bytes,
                solver=self.settings.solver,
                without=self.settings.without,
            )

        return find_limits(
            numbers, footprint_of, budget_bytes=self.budget_bytes, host_budget_bytes=host_bytes
        )

    def _plan(self, limits: Limits, number: int, progress: Progress) -> None:
        profile = self.grown.profile(number)
        points = [
            SweepPoint(choice=choice, budget_bytes=self.budget_bytes)
            for choice in self.request.choices(profile)
            if choice.host_budget_bytes == limits.host_budget_bytes
        ]
        done: dict[int, SweepRow] = {}
        solving = solve_points(profile, points, self.settings, processes=self.processes)
        try:
            with closing(solving) as solved:
                progress("planning", len(self.rows), self.wanted)
                for position, row in solved:
                    done[position] = row
                    progress("planning", len(self.rows) + len(done), self.wanted)
        finally:
            about = partial(
                LimitsRow, limits=limits, setting=number, peak_without_bytes=profile.peak_bytes
            )
            self.rows.extend(about(planned=done[position]) for position in sorted(done))
