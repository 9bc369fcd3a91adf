"""Every baseline and our own plan, side by side, in one simulator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planner.heuristics.heuristic import Baseline
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import held_bytes, own_stall_us
from planner.plan.plan import Boundary
from planner.problem.problem import Problem
from planner.search.candidate import POLICIES, Draft
from planner.search.list_scheduler import schedule_swaps
from profiles.schema.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd


RESOLUTION = 1000
"""The budget is found to one part of the no-plan peak in so many."""


def smallest_budget_bytes(baseline: Baseline, case: Case) -> int:
    """Returns the smallest budget, to 1/1000 of the no-plan peak.

    First what the rule leaves when it is asked for the impossible, then bisection: a rule need not
    meet every budget above one it meets, so the answer is one it meets, next to one it does not.
    """
    case = case.bounded(baseline.boundary)
    problem = case.problem
    high = max(problem.resident_bytes)
    least = max(problem.floor_bytes(problem.whole_set))
    left = _peak_bytes(baseline, case, least)
    if left <= least:
        return least
    if left < high and _peak_bytes(baseline, case, left) <= left:
        high = left
    low = least
    while high - low > max(1, max(problem.resident_bytes) // RESOLUTION):
        middle = (low + high) // 2
        if _peak_bytes(baseline, case, middle) <= middle:
            high = middle
        else:
            low = middle
    return high


def _peak_bytes(baseline: Baseline, case: Case, budget_bytes: int) -> int:
    asked = case.with_budget(budget_bytes)
    return max(held_bytes(asked.problem, baseline.rule(asked).trips))


OURS = "swapplan"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to plan a step. Times and bytes are simulated.

    Attributes:
        name: Ours, or a baseline's.
        trips: Swaps per step.
        moved_bytes: Bytes copied to the host per step.
        peak_bytes: Most bytes resident in any slot.
        fits: Whether that is within the budget.
        stall_us: Time compute waits per step, with its own timing.
        compute_us: Time of the step with nothing moved.
        bound_stall_us: No plan within the budget can wait less.
        retimed_stall_us: The same selection with our scheduler; None if not even all of it away
            from end to end meets the budget, or if it was not asked for.
        smallest_budget_bytes: The smallest budget its own rule meets; None if not asked for.
    """

    name: str
    trips: int
    moved_bytes: int
    peak_bytes: int
    fits: bool
    stall_us: float
    compute_us: float
    bound_stall_us: float
    retimed_stall_us: float | None = None
    smallest_budget_bytes: int | None = None

    @property
    def step_us(self) -> float:
        """Time of a step."""
        return self.compute_us + self.stall_us

    @property
    def gap(self) -> float | None:
        """How far from the best a plan that fits may be, as a share of the best step time."""
        best_us = self.compute_us + self.bound_stall_us
        if not self.fits or best_us <= 0:
            return None
        return max(0.0, self.stall_us - self.bound_stall_us) / best_us


@dataclass
class Comparison:
    """Scores baselines on one task.

    Attributes:
        case: The task.
        bound_stall_us: No plan within the budget can wait less.
        is_full: Whether to find smallest budgets and time every selection with our scheduler, too.
    """

    case: Case
    bound_stall_us: float
    is_full: bool = True
    _bounded: dict[Boundary, Case] = field(default_factory=dict)
    _retimed_us: dict[tuple[frozenset[int], Boundary], float | None] = field(default_factory=dict)

    def rows(self, baselines: Sequence[Baseline], progress: Progress = silent) -> Iterator[Row]:
        """Yields one row per baseline, in their order."""
        for done, baseline in enumerate(baselines):
            progress("simulating the baselines", done, len(baselines))
            yield self.row(baseline)
        progress("simulating the baselines", len(baselines), len(baselines))

    def row(self, baseline: Baseline) -> Row:
        """Scores one baseline."""
        problem = self.bounded(baseline.boundary).problem
        ruled = baseline.plan(self.case)
        peak_bytes = max(held_bytes(problem, ruled.trips))
        chosen = frozenset(trip.gap for trip in ruled.trips)
        return Row(
            name=baseline.name,
            trips=len(ruled.trips),
            moved_bytes=sum(problem.gaps[trip.gap].size_bytes for trip in ruled.trips),
            peak_bytes=peak_bytes,
            fits=peak_bytes <= problem.budget_bytes,
            stall_us=own_stall_us(problem, ruled),
            compute_us=problem.compute_us,
            bound_stall_us=self.bound_stall_us,
            retimed_stall_us=(self.retimed_us(chosen, baseline.boundary) if self.is_full else None),
            smallest_budget_bytes=(
                smallest_budget_bytes(baseline, self.case) if self.is_full else None
            ),
        )

    def bounded(self, boundary: Boundary) -> Case:
        """Returns the task with the gaps there are if trips may wrap, or if they may not."""
        if boundary not in self._bounded:
            self._bounded[boundary] = self.case.bounded(boundary)
        return self._bounded[boundary]

    def retimed_us(self, chosen: frozenset[int], boundary: Boundary) -> float | None:
        """Returns the stall of a selection with our scheduler, the best of its policies."""
        if (chosen, boundary) not in self._retimed_us:
            problem = self.bounded(boundary).problem
            self._retimed_us[chosen, boundary] = _retimed(problem, chosen)
        return self._retimed_us[chosen, boundary]


def _retimed(problem: Problem, chosen: frozenset[int]) -> float | None:
    if not problem.fits(chosen):
        return None
    return min(schedule_swaps(problem, Draft(chosen, policy)).stall_us for policy in POLICIES)


def comparison_table(rows: Sequence[Row], known: Sequence[Baseline]) -> "pd.DataFrame":
    """Returns rows as a table, one line per row.

    Columns: `name` (index), `fits`, `step_us`, `stall_us`, `moved_bytes` (each way), `trips`,
    `peak_bytes`, `smallest_budget_bytes`, `gap`, `retimed_stall_us`, `source`, `known_from`,
    `simplified`. All figures are simulated.
    """
    import pandas as pd

    about = {baseline.name: baseline for baseline in known}
    records = [
        {
            "name": row.name,
            "fits": row.fits,
            "step_us": row.step_us,
            "stall_us": row.stall_us,
            "moved_bytes": row.moved_bytes,
            "trips": row.trips,
            "peak_bytes": row.peak_bytes,
            "smallest_budget_bytes": row.smallest_budget_bytes,
            "gap": row.gap,
            "retimed_stall_us": row.retimed_stall_us,
            "source": about[row.name].source if row.name in about else "",
            "known_from": about[row.name].known_from.value if row.name in about else "",
            "simplified": about[row.name].simplified if row.name in about else "",
        }
        for row in rows
    ]
    return pd.DataFrame(records).set_index("name")
