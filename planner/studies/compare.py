"""Our own plan and every heuristic, side by side, in one simulator."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planner.heuristics.capuchin import CAPUCHIN
from planner.heuristics.controls import CONTROLS, just_in_time, one_layer_ahead
from planner.heuristics.evictors import SUPERNEURONS, SWAPADVISOR
from planner.heuristics.flashneuron import FLASHNEURON
from planner.heuristics.heuristic import Heuristic, Swaps
from planner.heuristics.lms import PYTORCH_LMS, TFLMS_V1, TFLMS_V2
from planner.heuristics.task import Task
from planner.heuristics.teraio import G10, TERAIO
from planner.heuristics.torch_offload import (
    DEEPCOMPILE,
    TORCH_PASS,
    TORCH_PASS_SINK,
    TORCHTITAN,
    TORCHTUNE,
)
from planner.heuristics.vdnn import VDNN_ALL, VDNN_CONV
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary, Plan, optimality_gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import held_bytes
from planner.search.candidate import POLICIES, Candidate
from planner.search.list_scheduler import schedule_swaps
from planner.solving import solve
from profiles.schema.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED: tuple[Heuristic, ...] = (
    VDNN_ALL,
    VDNN_CONV,
    TFLMS_V1,
    TFLMS_V2,
    PYTORCH_LMS,
    SUPERNEURONS,
    CAPUCHIN,
    SWAPADVISOR,
    FLASHNEURON,
    G10,
    TERAIO,
    TORCHTUNE,
    TORCH_PASS,
    TORCH_PASS_SINK,
    TORCHTITAN,
    DEEPCOMPILE,
)
HEURISTICS = PUBLISHED + CONTROLS
"""In the order in which tables list them."""
OURS = "swapplan"
RESOLUTION = 1000
"""A smallest budget is found to one part of the no-plan peak in so many."""
FIGURES = (
    *("name", "fits", "step_us", "stall_us", "moved_bytes", "swaps"),
    *("peak_bytes", "smallest_budget_bytes", "gap", "retimed_stall_us"),
)
"""Columns of the table: attributes of `Row`."""
ABOUT = ("source", "known_from", "simplified")
"""More columns, with what is known of a heuristic."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to plan a step. Times and bytes are simulated.

    Attributes:
        name: Ours, or a heuristic's.
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
    swaps: int
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
        """Time of a step with its stall."""
        return self.compute_us + self.stall_us

    @property
    def gap(self) -> float | None:
        """How far from the best a plan that fits may be, as a share of the best step time."""
        best_us = self.compute_us + self.bound_stall_us
        if not self.fits or best_us <= 0:
            return None
        return optimality_gap(self.stall_us - self.bound_stall_us, best_us)


@dataclass
class Comparison:
    """Scores heuristics on one task against a bound that no plan within its budget can be below.

    If it is full, it also finds smallest budgets and times every selection with our scheduler.
    """

    task: Task
    bound_stall_us: float
    is_full: bool = True
    _bounded: dict[Boundary, Task] = field(default_factory=dict)
    _retimed_us: dict[tuple[frozenset[int], Boundary], float | None] = field(default_factory=dict)

    def rows(self, heuristics: Sequence[Heuristic], progress: Progress = silent) -> Iterator[Row]:
        """Yields one row per heuristic, in their order."""
        for done, heuristic in enumerate(heuristics):
            progress("simulating the baselines", done, len(heuristics))
            yield self.row(heuristic)
        progress("simulating the baselines", len(heuristics), len(heuristics))

    def row(self, heuristic: Heuristic) -> Row:
        """Scores one heuristic."""
        boundary = heuristic.boundary
        if boundary not in self._bounded:
            self._bounded[boundary] = self.task.bounded(boundary)
        task = self._bounded[boundary]
        problem, swaps = task.problem, heuristic.swaps(task)
        peak_bytes = max(held_bytes(problem, swaps))
        chosen = frozenset(swap.gap for swap in swaps)
        return Row(
            name=heuristic.name,
            swaps=len(swaps),
            moved_bytes=sum(problem.gaps[swap.gap].size_bytes for swap in swaps),
            peak_bytes=peak_bytes,
            fits=peak_bytes <= problem.budget_bytes,
            stall_us=heuristic.stall_us(problem, swaps),
            compute_us=problem.compute_us,
            bound_stall_us=self.bound_stall_us,
            retimed_stall_us=self._retimed(problem, chosen) if self.is_full else None,
            smallest_budget_bytes=smallest_budget_bytes(heuristic, task) if self.is_full else None,
        )

    def _retimed(self, problem: Problem, chosen: frozenset[int]) -> float | None:
        """The stall of a selection with our scheduler, the best of its policies."""
        key = (chosen, problem.boundary)
        if key not in self._retimed_us:
            policies = POLICIES if problem.fits(chosen) else ()
            candidates = (Candidate(chosen, policy) for policy in policies)
            stalls_us = (schedule_swaps(problem, candidate).stall_us for candidate in candidates)
            self._retimed_us[key] = min(stalls_us, default=None)
        return self._retimed_us[key]


def smallest_budget_bytes(heuristic: Heuristic, task: Task) -> int:
    """Returns the smallest budget that a rule meets, to 1/1000 of the no-plan peak.

    First what the rule leaves when it is asked for the impossible, then bisection: a rule need not
    meet every budget above one it meets, so the answer is one it meets, next to one it does not.
    """
    task = task.bounded(heuristic.boundary)
    peak_bytes = max(task.problem.resident_bytes)

    def left_bytes(budget_bytes: int) -> int:
        asked = task.with_budget(budget_bytes)
        return max(held_bytes(asked.problem, heuristic.swaps(asked)))

    low, high = max(task.problem.floor_bytes(task.problem.whole_set)), peak_bytes
    left = left_bytes(low)
    if left <= low:
        return low
    if left < high and left_bytes(left) <= left:
        high = left
    while high - low > max(1, peak_bytes // RESOLUTION):
        middle = (low + high) // 2
        if left_bytes(middle) <= middle:
            high = middle
        else:
            low = middle
    return high


def our_plan(
    task: Task, *, solver: SolverName, time_limit_s: float, progress: Progress = silent
) -> Plan:
    """Plans the task that the heuristics are given.

    Raises:
        BudgetError: The budget cannot be met.
        SolverError: The solver is missing or failed.
    """
    problem = task.problem
    return solve(
        task.step.profile,
        budget_bytes=problem.budget_bytes,
        link=problem.link,
        solver=solver,
        time_limit_s=time_limit_s,
        min_size_bytes=problem.min_size_bytes,
        progress=progress,
    )


def our_row(plan: Plan, smallest_bytes: int | None = None) -> Row:
    """Returns our plan's figures as its certificate has them."""
    about = plan.certificate
    return Row(
        name=OURS,
        swaps=len(plan.swaps),
        moved_bytes=about.d2h_bytes,
        peak_bytes=about.peak_bytes,
        fits=about.peak_bytes <= plan.budget_bytes,
        stall_us=about.simulated_stall_us,
        compute_us=about.compute_us,
        bound_stall_us=about.bound_beyond_us,
        smallest_budget_bytes=smallest_bytes,
    )


def our_smallest_budget_bytes(task: Task) -> int:
    """Returns the smallest budget we can meet; there is none below a byte."""
    problem = task.bounded(Boundary.PERIODIC).problem
    return max(1, *problem.floor_bytes(problem.whole_set))


def our_selection(task: Task, plan: Plan) -> tuple[int, ...]:
    """Returns the gaps of a task that a plan's swaps lie in."""
    gaps = {
        (gap.storage, slot % task.step.slot_count): i
        for i, gap in enumerate(task.gaps)
        for slot in range(gap.first_slot, gap.next_use_slot)
    }
    return tuple(sorted({gaps[swap.storage, swap.swap_out_slot] for swap in plan.swaps}))


def our_selection_otherwise_timed(plan: Plan) -> tuple[Heuristic, ...]:
    """Returns controls that move what a plan moves, with the simplest timings there are."""

    def control(timing: str, time: Callable[[Task, Iterable[int]], Swaps]) -> Heuristic:
        return Heuristic(
            name=f"{OURS}'s gaps, {timing}",
            rule=lambda task: time(task, our_selection(task, plan)),
            boundary=plan.boundary,
        )

    return control("one layer ahead", one_layer_ahead), control("just in time", just_in_time)


def comparison_table(rows: Sequence[Row]) -> "pd.DataFrame":
    """Returns rows as a table, one line per row.

    Columns: `name` (index), `fits`, `step_us`, `stall_us`, `moved_bytes` (each way), `swaps`,
    `peak_bytes`, `smallest_budget_bytes`, `gap` (to the bound), `retimed_stall_us`, `source`,
    `known_from`, `simplified`. All figures are simulated.
    """
    import pandas as pd

    known = {heuristic.name: heuristic for heuristic in HEURISTICS}
    records = [
        {column: getattr(row, column) for column in FIGURES}
        | {column: str(getattr(known.get(row.name), column, "")) for column in ABOUT}
        for row in rows
    ]
    return pd.DataFrame(records).set_index("name")
