"""From a profile and a budget to a plan: the bound, the ILP, the search, the certificate."""

import time
from collections.abc import Callable, Iterable, Iterator

from planner.build_plan import Solution, build_plan
from planner.ilp.deadline import Deadline, OnIncumbent, SolverName, never
from planner.ilp.model import build
from planner.ilp.solver import StallBound, relaxed_bound, solve_model, whole_bound
from planner.ilp.variables import Goal
from planner.plan.plan import Boundary, BoundSource, Plan, Proof
from planner.problem.problem import problem_of
from planner.problem.settings import SETTINGS
from planner.search.candidate import POLICIES, QUICK_POLICIES
from planner.search.local_search import Search
from planner.search.starts import Start, published_starts, starting_sets
from planner.smallest_budget import check_budget, widest_set
from profiles.schema.profile import Link, Profile
from profiles.schema.progress import Progress, silent

STAGES = 3


def solve(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link | None = None,
    host_budget_bytes: int | None = None,
    solver: SolverName = SolverName.HIGHS,
    time_limit_s: float = 60.0,
    min_size_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
    progress: Progress | None = None,
    on_incumbent: OnIncumbent | None = None,
    stop: Callable[[], bool] = never,
) -> Plan:
    """Plans a step for a budget.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for; the profile's if None.
        host_budget_bytes: Host bytes to stay within; None for no limit.
        solver: Which solver PuLP drives.
        time_limit_s: Wall time for the whole of it; what is needed for any plan at all may exceed
            it.
        min_size_bytes: Smaller storages stay; 1/1000 of the peak with nothing moved if None.
        boundary: Whether swaps may wrap round the step boundary.
        progress: Called with how far it is.
        on_incumbent: Called with every better plan and bound.
        stop: Asked often; once it says so, the best plan so far is returned.

    Returns:
        A verified plan; an empty one if the step fits the budget as it is.

    Raises:
        BudgetError: The budget cannot be met; it carries the smallest that can.
        SolverError: The solver is missing or failed.
    """
    started_s = time.monotonic()
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=link or profile.link,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
    )
    if problem.fits(()):
        solution = Solution(frozenset(), (), 0.0, 0.0, BoundSource.TRIVIAL, Proof.NOT_NEEDED)
    else:
        # The set with the most room is always a way out, whatever the solver finds in time.
        widest = widest_set(problem, solver)
        check_budget(problem, widest, profile)
        deadline = Deadline(started_s + time_limit_s, stop)
        search = Search(problem, deadline, progress or silent, on_incumbent)
        solution = _solution(search, solver, widest.chosen, published_starts(profile, problem))
    seconds = time.monotonic() - started_s
    return build_plan(profile, problem, solution, solver=solver, seconds=seconds)


def _solution(
    search: Search, solver: SolverName, widest: frozenset[int], starts: Iterable[Start]
) -> Solution:
    """Goes through the stages: each has a plan to fall back on, and a bound once there is one."""
    problem = search.problem
    search.progress("bounding the stall", 0, STAGES)
    search.start(widest)
    loose = relaxed_bound(problem, solver, search.deadline.share(SETTINGS.stage_share))
    search.bounded(loose.stall_us)
    search.progress("timing the swaps", 1, STAGES)
    sets = [*starting_sets(problem, loose.shares)]
    if widest != problem.whole_set:
        sets.append(widest)
    search.try_sets(sets, QUICK_POLICIES)
    search.try_starts(starts)
    tight = None
    if not search.over:
        search.progress("solving the ILP", 2, STAGES)
        tight = _tight_bound(search, solver, loose)
        search.try_sets([*_ilp_sets(search, solver, tight or loose), *sets], POLICIES)
    search.improve()
    search.slacken()
    # The file has one word for two proofs: of the ILP, or of the plan by its relaxation's bound.
    ilp_solved = tight is not None and tight.proven
    meets_relaxed_bound = tight is None and search.good
    bound = tight or loose
    return Solution(
        chosen=search.best.candidate.chosen,
        swaps=search.best.timing.swaps,
        loose_bound_stall_us=loose.stall_us,
        bound_stall_us=bound.stall_us,
        bound_source=bound.source,
        proof=Proof.OPTIMAL if ilp_solved or meets_relaxed_bound else Proof.FEASIBLE,
    )


def _tight_bound(search: Search, solver: SolverName, loose: StallBound) -> StallBound | None:
    """What the ILP proves, never less than the loose bound; None where it is not tried."""
    if len(search.problem.whole_gaps) > SETTINGS.max_ilp_gaps:
        return None
    deadline = search.deadline.share(SETTINGS.stage_share)
    tight = whole_bound(search.problem, solver, deadline)
    if tight.stall_us <= loose.stall_us:
        tight = tight._replace(stall_us=loose.stall_us, source=loose.source)
    search.bounded(tight.stall_us)
    return tight


def _ilp_sets(search: Search, solver: SolverName, bound: StallBound) -> Iterator[frozenset[int]]:
    problem = search.problem
    whole = frozenset(i for i, share in enumerate(bound.shares) if share > 0.5)
    if whole and problem.fits(whole):
        yield whole
    if not problem.whole_fits_host(problem.whole_set):
        deadline = search.deadline.share(SETTINGS.stage_share)
        choice = solve_model(build(problem, Goal.CHOICE), solver, deadline)
        if choice.chosen and problem.fits(choice.chosen):
            yield choice.chosen
