"""The work of `plan limits`: estimates, limits, and plans, kept as they are finished."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from planner.studies.limits import (
    Footprint,
    Limits,
    LimitsRow,
    find_limits,
    footprint,
    settings_between,
)
from planner.studies.sweep import LinkChoice, SweepPoint, SweepRow, SweepSettings, solve_points
from profiles.schema.profile import Profile
from profiles.schema.progress import Progress

if TYPE_CHECKING:
    from runtime.cli.growing import Growing


class LimitsSearch:
    """Finds the limits of a workload whose setting grows, and plans up to them.

    Attributes:
        limits: Those found: one per number of host bytes for a worker.
        rows: The plans finished.
        wanted: How many plans there will be.
    """

    def __init__(
        self,
        grown: "Growing",
        choices_of: Callable[[Profile], Sequence[LinkChoice]],
        budget_bytes: int,
        settings: SweepSettings,
    ) -> None:
        """Prepares.

        Args:
            grown: The workload.
            choices_of: Says for a step which links and numbers of workers to plan for.
            budget_bytes: Device bytes to stay within.
            settings: What plans are made with.
        """
        self.limits: list[Limits] = []
        self.rows: list[LimitsRow] = []
        self.wanted = 0
        self._grown = grown
        self._choices_of = choices_of
        self._budget_bytes = budget_bytes
        self._settings = settings

    def run(self, *, points: int, processes: int, progress: Progress) -> None:
        """Does it all; what is finished is there however it ends.

        Args:
            points: How many settings to plan.
            processes: How many plans are made at once.
            progress: Told how far it is.
        """
        numbers = self._grown.numbers
        choices = self._choices_of(self._grown.profile(numbers[0]))
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
            self._plan(limits, number, processes, progress)

    def _find(self, host_bytes: int | None, progress: Progress) -> Limits:
        tried: dict[int, Footprint] = {}
        # Doubling, and halving twice.
        at_most = 3 * len(self._grown.numbers).bit_length()

        def footprint_of(number: int) -> Footprint:
            if number not in tried:
                progress("finding the limits", len(tried), at_most)
                tried[number] = self._footprint(number, host_bytes)
            return tried[number]

        return find_limits(
            self._grown.numbers,
            footprint_of,
            budget_bytes=self._budget_bytes,
            host_budget_bytes=host_bytes,
        )

    def _footprint(self, number: int, host_bytes: int | None) -> Footprint:
        return footprint(
            number,
            self._grown.profile(number),
            budget_bytes=self._budget_bytes,
            host_budget_bytes=host_bytes,
            solver=self._settings.solver,
        )

    def _plan(self, limits: Limits, number: int, processes: int, progress: Progress) -> None:
        profile = self._grown.profile(number)
        points = [
            SweepPoint(choice=choice, budget_bytes=self._budget_bytes)
            for choice in self._choices_of(profile)
            if choice.host_budget_bytes == limits.host_budget_bytes
        ]
        peak_bytes = profile.peak_bytes
        done: dict[int, SweepRow] = {}
        solving = solve_points(profile, points, self._settings, processes=processes)
        try:
            with closing(solving) as solved:
                progress("planning", len(self.rows), self.wanted)
                for position, row in solved:
                    done[position] = row
                    progress("planning", len(self.rows) + len(done), self.wanted)
        finally:
            self.rows.extend(
                LimitsRow(
                    limits=limits,
                    setting=number,
                    peak_without_bytes=peak_bytes,
                    planned=done[position],
                )
                for position in sorted(done)
            )
