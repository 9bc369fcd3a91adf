"""From a profile and a budget to a plan: the bound, the ILP, the search, the certificate."""

import time
from collections.abc import Iterator

from planner.bound import StallBound, stall_bound
from planner.boundary import Boundary
from planner.candidates import starting_sets
from planner.gaps import default_min_size_bytes
from planner.memory import slot_memory
from planner.model import build
from planner.plan import BoundSource, Plan, Proof
from planner.plan_builder import Solution, build_plan
from planner.problem import Problem
from planner.problem_of import problem_of
from planner.search import Search
from planner.smallest_budget import check_budget, widest_set
from planner.solver import Outcome, Solved, solve_model
from planner.solver_name import SolverName
from planner.variables import Goal
from profiles.profile import Link, Profile
from profiles.progress import Progress, silent

STAGE_SHARE = 1 / 2
"""Share of the time left that the bound may take, and then the ILP."""


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

    Returns:
        A verified plan; an empty one if the step fits the budget as it is.

    Raises:
        BudgetError: The budget cannot be met; it carries the smallest that can.
        SolverError: The solver is missing or failed.
    """
    started_s = time.monotonic()
    if min_size_bytes is None:
        peak_bytes = max(slot.resident_bytes for slot in slot_memory(profile))
        min_size_bytes = default_min_size_bytes(peak_bytes)
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=link or profile.link,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
    )
    if problem.fits(()):
        solution = Solution(frozenset(), (), 0.0, BoundSource.TRIVIAL, Proof.NOT_NEEDED)
    else:
        # The set with the most room is always a way out, whatever the solver finds in time.
        widest = widest_set(problem, solver)
        check_budget(problem, widest, profile)
        deadline_s = started_s + time_limit_s
        solution = _Solver(problem, solver, deadline_s, progress or silent).solve(widest)
    seconds = time.monotonic() - started_s
    return build_plan(profile, problem, solution, solver=solver, seconds=seconds)


class _Solver:
    """The stages of one solve."""

    def __init__(
        self, problem: Problem, solver: SolverName, deadline_s: float, progress: Progress
    ) -> None:
        self.problem = problem
        self.solver = solver
        self.deadline_s = deadline_s
        self.progress = progress

    def solve(self, widest: frozenset[int]) -> Solution:
        self.progress("bounding the stall", 0, 3)
        bound = stall_bound(self.problem, self.solver, self.share_of_time_left_s())
        self.progress("solving the ILP", 1, 3)
        model = build(self.problem, Goal.CHOICE)
        choice = solve_model(model, self.solver, self.share_of_time_left_s())
        self.progress("timing the swaps", 2, 3)
        search = Search(self.problem, bound.stall_us, self.deadline_s, self.progress)
        answer = search.run(self.starts(bound, choice, widest))
        proof = Proof.OPTIMAL if choice.outcome is Outcome.OPTIMAL else Proof.FEASIBLE
        return Solution(
            answer.draft.chosen, answer.timing.trips, bound.stall_us, bound.source, proof
        )

    def share_of_time_left_s(self) -> float:
        return STAGE_SHARE * (self.deadline_s - time.monotonic())

    def starts(
        self, bound: StallBound, choice: Solved, widest: frozenset[int]
    ) -> Iterator[frozenset[int]]:
        if choice.chosen and self.problem.fits(choice.chosen):
            yield choice.chosen
        yield widest
        yield from starting_sets(self.problem, bound.shares)
