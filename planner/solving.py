"""From a profile and a budget to a plan: the bound, the ILP, the search, the certificate."""

import time
from collections.abc import Callable, Iterable, Iterator

from planner.build_plan import Solution, build_plan
from planner.ilp.bound import StallBound, fluid_bound, whole_bound
from planner.ilp.deadline import Limits, SolverName, Told, never, untold
from planner.ilp.model import build
from planner.ilp.solver import solve_model
from planner.ilp.variables import Goal
from planner.plan.plan import Boundary, BoundSource, Plan, Proof
from planner.problem.build_problem import problem_of
from planner.problem.host_layout import whole_gaps_fit_host
from planner.problem.problem import Problem
from planner.search.candidate import POLICIES, QUICK_POLICIES
from planner.search.local_search import Search
from planner.search.starting_sets import starting_sets
from planner.search.warm_starts import Start, published_starts
from planner.smallest_budget import check_budget, widest_set
from profiles.schema.profile import Link, Profile
from profiles.schema.progress import Progress, silent

STAGES = 3
STAGE_SHARE = 1 / 2
"""Share of the time left that the loose bound may take, and then the ILP."""
MAX_ILP_GAPS = 1500
"""With more gaps the ILP is not tried: it hardly ever tells more in time than the loose bound, and
HiGHS looks at the clock too seldom while it prepares models so large."""


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
    told: Told = untold,
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
        boundary: Whether trips may wrap round the step boundary.
        progress: Told how far it is.
        told: Told of every better plan and bound.
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
        limits = Limits(started_s + time_limit_s, stop)
        search = Search(problem, limits, progress or silent, told)
        starts = published_starts(profile, problem)
        solution = _Solver(problem, solver, search).solve(widest, starts)
    seconds = time.monotonic() - started_s
    return build_plan(profile, problem, solution, solver=solver, seconds=seconds)


class _Solver:
    """The stages of one solve: each has a plan to fall back on, and a bound once there is one."""

    def __init__(self, problem: Problem, solver: SolverName, search: Search) -> None:
        self.problem = problem
        self.solver = solver
        self.search = search

    def solve(self, widest: frozenset[int], starts: Iterable[Start]) -> Solution:
        self.search.progress("bounding the stall", 0, STAGES)
        self.search.start(widest)
        loose = fluid_bound(self.problem, self.solver, self.part())
        self.search.bounded(loose.stall_us)
        self.search.progress("timing the swaps", 1, STAGES)
        sets = [*starting_sets(self.problem, loose.shares)]
        if widest != self.problem.whole_set:
            sets.append(widest)
        self.search.try_sets(sets, QUICK_POLICIES)
        self.search.try_starts(starts)
        tight = loose
        if not self.search.over:
            self.search.progress("solving the ILP", 2, STAGES)
            tight = self.tightened(loose)
            self.search.try_sets([*self.chosen(tight), *sets], POLICIES)
        self.search.improve()
        self.search.slacken()
        return self.solution(loose, tight)

    def part(self) -> Limits:
        return self.search.limits.share(STAGE_SHARE)

    def tightened(self, loose: StallBound) -> StallBound:
        """The tight bound, unless time was too short for it to be any tighter."""
        if len(self.problem.whole_gaps) > MAX_ILP_GAPS:
            return loose
        tight = whole_bound(self.problem, self.solver, self.part())
        if tight.stall_us <= loose.stall_us:
            tight = tight._replace(stall_us=loose.stall_us, source=loose.source)
        self.search.bounded(tight.stall_us)
        return tight

    def chosen(self, tight: StallBound) -> Iterator[frozenset[int]]:
        """The ILP's own sets."""
        whole = frozenset(i for i, share in enumerate(tight.shares) if share > 0.5)
        if whole and self.problem.fits(whole):
            yield whole
        if not whole_gaps_fit_host(self.problem, self.problem.whole_set):
            choice = solve_model(build(self.problem, Goal.CHOICE), self.solver, self.part())
            if choice.chosen and self.problem.fits(choice.chosen):
                yield choice.chosen

    def solution(self, loose: StallBound, tight: StallBound) -> Solution:
        best = self.search.best
        proven = self.search.good if tight is loose else tight.proven
        return Solution(
            chosen=best.draft.chosen,
            swaps=best.timing.trips,
            loose_bound_stall_us=loose.stall_us,
            bound_stall_us=tight.stall_us,
            bound_source=tight.source,
            proof=Proof.OPTIMAL if proven else Proof.FEASIBLE,
        )
