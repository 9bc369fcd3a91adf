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
from planner.heuristics.recomputing.catalog import RECOMPUTING
from planner.heuristics.recomputing.checkpointing import FULL
from planner.heuristics.recomputing.choice import Stop
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
from planner.plan.plan import Boundary, Plan, Without
from planner.problem.problem import Problem
from planner.problem.timed_swap import held_bytes
from planner.search.candidate import POLICIES, Candidate
from planner.search.list_scheduler import schedule_swaps
from planner.solving import solve
from planner.studies.rows import (
    ABOUT,
    FIGURES,
    REFERENCES,
    STOPPED,
    Clock,
    NotApplicable,
    Published,
    Row,
    never,
)
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
OURS_RECOMPUTE = f"{OURS}, with recompute"
OURS_AT_CHECKPOINTING = f"{OURS_RECOMPUTE}, at checkpointing's peak"
CHECKPOINTING = FULL.name
RESOLUTION = 1000
"""A smallest budget is found to one part of the no-plan peak in so many."""


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

    def rows(self, heuristics: Sequence[Heuristic], clock: "Clock | None" = None) -> Iterator[Row]:
        """Yields one row per heuristic, in their order, each as soon as it is done."""
        for done, heuristic in enumerate(heuristics):
            yield self.row(
                heuristic, never if clock is None else clock.share(len(heuristics) - done)
            )

    def row(self, heuristic: Heuristic, stop: Stop = never) -> Row:
        """Scores one heuristic; once it is to stop, no more budgets and timings are tried."""
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
            retimed_stall_us=self._retimed(problem, chosen, stop) if self.is_full else None,
            smallest_budget_bytes=(
                smallest_budget_bytes(heuristic, task, stop) if self.is_full else None
            ),
            note=STOPPED if self.is_full and stop() else "",
        )

    def _retimed(self, problem: Problem, chosen: frozenset[int], stop: Stop) -> float | None:
        """The stall of a selection with our scheduler, the best of its policies.

        Once it is to stop, of those tried so far; None if it is before the first.
        """
        key = (chosen, problem.boundary)
        if key not in self._retimed_us:
            stalls_us: list[float] = []
            for policy in POLICIES if not stop() and problem.fits(chosen) else ():
                if stalls_us and stop():
                    break
                stalls_us.append(schedule_swaps(problem, Candidate(chosen, policy)).stall_us)
            self._retimed_us[key] = min(stalls_us, default=None)
        return self._retimed_us[key]


def smallest_budget_bytes(heuristic: Heuristic, task: Task, stop: Stop = never) -> int | None:
    """Returns the smallest budget that a rule meets, to 1/1000 of the no-plan peak.

    First what the rule leaves when it is asked for the impossible, then bisection: a rule need not
    meet every budget above one it meets, so the answer is one it meets, next to one it does not.
    None if there is no time to find it.
    """
    task = task.bounded(heuristic.boundary)
    peak_bytes = max(task.problem.resident_bytes)

    def left_bytes(budget_bytes: int) -> int:
        asked = task.with_budget(budget_bytes)
        return max(held_bytes(asked.problem, heuristic.swaps(asked)))

    if stop():
        return None
    low, high = task.problem.least_budget_bytes(task.problem.whole_set), peak_bytes
    left = left_bytes(low)
    if left <= low:
        return low
    if left < high and left_bytes(left) <= left:
        high = left
    while high - low > max(1, peak_bytes // RESOLUTION):
        if stop():
            return None
        middle = (low + high) // 2
        if left_bytes(middle) <= middle:
            high = middle
        else:
            low = middle
    return high


def our_plan(
    task: Task,
    *,
    solver: SolverName,
    time_limit_s: float,
    without: Without = Without.RECOMPUTE,
    progress: Progress = silent,
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
        without=without,
        progress=progress,
    )


def our_row(plan: Plan, smallest_bytes: int | None = None, name: str = OURS) -> Row:
    """Returns our plan's figures as its certificate has them."""
    about = plan.certificate
    return Row(
        name=name,
        swaps=len(plan.swaps),
        moved_bytes=about.d2h_bytes,
        peak_bytes=about.peak_bytes,
        fits=about.peak_bytes <= plan.budget_bytes,
        stall_us=about.simulated_stall_us,
        compute_us=about.compute_us,
        recompute_us=about.recompute_us,
        bound_stall_us=about.bound_beyond_us,
        smallest_budget_bytes=smallest_bytes,
    )


def our_smallest_budget_bytes(task: Task) -> int:
    """Returns the smallest budget we can meet; there is none below a byte."""
    problem = task.bounded(Boundary.PERIODIC).problem
    return max(1, problem.least_budget_bytes(problem.whole_set))


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


def comparison_table(rows: Sequence[Row | NotApplicable]) -> "pd.DataFrame":
    """Returns rows as a table, one line per row.

    Columns: `name` (index), `fits`, `step_us`, `recompute_us`, `stall_us`, `moved_bytes` (each
    way), `swaps`, `peak_bytes`, `smallest_budget_bytes`, `gap` (to the bound), `retimed_stall_us`,
    `note`, `source`, `known_from`, `simplified`. All figures are simulated; those of references are
    estimated, and there are none where they do not apply.
    """
    import pandas as pd

    baselines: tuple[Published, ...] = (*HEURISTICS, *RECOMPUTING, *REFERENCES)
    known = {baseline.name: baseline for baseline in baselines}
    records = [
        {column: getattr(row, column, None) for column in FIGURES}
        | {column: str(getattr(known.get(row.name), column, "")) for column in ABOUT}
        for row in rows
    ]
    return pd.DataFrame(records).set_index("name")
