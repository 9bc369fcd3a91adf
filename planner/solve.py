"""From a profile and a budget to a plan: the bound, the ILP, the search, the certificate."""

import time
from collections.abc import Iterator
from dataclasses import replace

from planner.candidates import starting_sets
from planner.gap_parts import gap_parts
from planner.gaps import candidate_gaps, default_min_size_bytes, useful_gaps
from planner.memory import slot_memory
from planner.model import build
from planner.plan import BoundSource, Plan, Proof
from planner.plan_builder import Solution, build_plan
from planner.problem import Problem
from planner.search import Search
from planner.smallest_budget import check_budget, whole_trips_fit_host, widest_set
from planner.solver import Outcome, Solved, solve_model
from planner.solver_name import SolverName
from planner.variables import Goal, units_of
from profiles.profile import Link, Profile
from profiles.progress import Progress, silent

BOUND_SHARE = 1 / 2
"""Share of the time limit the bound may take; the ILP gets half of what is left."""
BOUND_ROUNDING = 1e-6
"""The bound is taken down by this share of itself and of a unit: the solvers' tolerance."""


def solve(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link | None = None,
    host_budget_bytes: int | None = None,
    solver: SolverName = SolverName.HIGHS,
    time_limit_s: float = 60.0,
    min_size_bytes: int | None = None,
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
        progress: Told how far it is.

    Returns:
        A verified plan; an empty one if the step fits the budget as it is.

    Raises:
        BudgetError: The budget cannot be met; it carries the smallest that can.
        SolverError: The solver is missing or failed.
    """
    started_s = time.monotonic()
    problem = _problem(profile, budget_bytes, link, host_budget_bytes, min_size_bytes)
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
        relaxed = self.solve_goal(Goal.STALL, BOUND_SHARE)
        bound_us, bound_source = self.bound(relaxed)
        self.progress("solving the ILP", 1, 3)
        choice = self.solve_goal(Goal.CHOICE, BOUND_SHARE)
        self.progress("timing the swaps", 2, 3)
        search = Search(self.problem, bound_us, self.deadline_s, self.progress)
        answer = search.run(self.starts(relaxed, choice, widest))
        proof = Proof.OPTIMAL if choice.outcome is Outcome.OPTIMAL else Proof.FEASIBLE
        return Solution(answer.draft.chosen, answer.timing.trips, bound_us, bound_source, proof)

    def solve_goal(self, goal: Goal, share: float) -> Solved:
        time_left_s = self.deadline_s - time.monotonic()
        return solve_model(build(self.problem, goal), self.solver, share * time_left_s)

    def bound(self, relaxed: Solved) -> tuple[float, BoundSource]:
        if relaxed.outcome is not Outcome.OPTIMAL:
            # A relaxation stopped early bounds nothing.
            return 0.0, BoundSource.TRIVIAL
        unit_us = units_of(self.problem).time_us
        stall_us = relaxed.objective * unit_us
        bound_us = max(0.0, stall_us - BOUND_ROUNDING * (stall_us + unit_us))
        return bound_us, BoundSource.RELAXATION

    def starts(
        self, relaxed: Solved, choice: Solved, widest: frozenset[int]
    ) -> Iterator[frozenset[int]]:
        if choice.chosen and self.problem.fits(choice.chosen):
            yield choice.chosen
        yield widest
        yield from starting_sets(self.problem, relaxed.shares)


def _problem(
    profile: Profile,
    budget_bytes: int,
    link: Link | None,
    host_budget_bytes: int | None,
    min_size_bytes: int | None,
) -> Problem:
    resident_bytes = tuple(slot.resident_bytes for slot in slot_memory(profile))
    if min_size_bytes is None:
        min_size_bytes = default_min_size_bytes(max(resident_bytes))
    whole = Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=resident_bytes,
        whole_gaps=useful_gaps(
            candidate_gaps(profile, min_size_bytes), resident_bytes, budget_bytes
        ),
        link=link or profile.link,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
    )
    if whole_trips_fit_host(whole, whole.whole_set):
        return whole
    parts = useful_gaps(gap_parts(whole.whole_gaps), resident_bytes, budget_bytes)
    return replace(whole, part_gaps=parts)
