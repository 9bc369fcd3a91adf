"""Our own plan as a row beside the baselines."""

from collections.abc import Callable, Iterable
from functools import partial

from planner.heuristics.controls import just_in_time, one_layer_ahead
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled
from planner.ilp.deadline import SolverName
from planner.plan.plan import Plan
from planner.solving import solve
from planner.studies.compare import OURS, Row
from profiles.schema.errors import BudgetError
from profiles.schema.progress import Progress, silent


def our_plan(
    case: Case, *, solver: SolverName, time_limit_s: float, progress: Progress = silent
) -> Plan:
    """Plans the task that the baselines are given.

    Raises:
        BudgetError: The budget cannot be met.
        SolverError: The solver is missing or failed.
    """
    problem = case.problem
    return solve(
        case.step.profile,
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
        trips=len(plan.swaps),
        moved_bytes=about.d2h_bytes,
        peak_bytes=about.peak_bytes,
        fits=about.peak_bytes <= plan.budget_bytes,
        stall_us=about.simulated_stall_us,
        compute_us=about.compute_us,
        bound_stall_us=about.bound_stall_us,
        smallest_budget_bytes=smallest_bytes,
    )


def our_selection(case: Case, plan: Plan) -> tuple[int, ...]:
    """Returns the gaps of a task that a plan's swaps lie in."""
    count = case.step.slot_count
    gaps = {
        (gap.storage, slot % count): i
        for i, gap in enumerate(case.gaps)
        for slot in range(gap.first_slot, gap.next_use_slot)
    }
    return tuple(sorted({gaps[swap.storage, swap.swap_out_slot] for swap in plan.swaps}))


def our_selection_otherwise_timed(plan: Plan) -> tuple[Baseline, ...]:
    """Returns controls that move what a plan moves, with the simplest timings there are."""
    return tuple(
        Baseline(
            name=f"{OURS}'s gaps, {timing}",
            source="",
            known_from=KnownFrom.CONTROL,
            simplified="",
            rule=partial(_selection_timed, plan=plan, time=time),
            boundary=plan.boundary,
        )
        for timing, time in (("one layer ahead", one_layer_ahead), ("just in time", just_in_time))
    )


def _selection_timed(case: Case, plan: Plan, time: Callable[[Case, Iterable[int]], Ruled]) -> Ruled:
    return time(case, our_selection(case, plan))


def our_smallest_budget_bytes(case: Case) -> int:
    """Returns the smallest budget we can meet: what the refusal of the least of all names."""
    try:
        our_plan(case.with_budget(1), solver=SolverName.HIGHS, time_limit_s=1.0)
    except BudgetError as error:
        return error.smallest_budget_bytes
    return 1
