"""Lower bounds on the stall of every plan, from the ILP: a loose one and a tight one."""

import math
from typing import NamedTuple

from planner.ilp.deadline import Limits, SolverName
from planner.ilp.model import build
from planner.ilp.solver import GAP_REL, Outcome, Solved, solve_model
from planner.ilp.variables import Goal, units_of
from planner.plan.plan import BoundSource
from planner.problem.problem import Problem

ROUNDING = 1e-6
"""A bound is taken down by this share of itself and of a unit: the solvers' tolerance."""


class StallBound(NamedTuple):
    """A bound and where it comes from.

    Attributes:
        stall_us: No plan can wait less.
        source: How that is known.
        shares: How much of each whole gap the solution of the model uses; empty if there was none.
        proven: Whether the model was solved to its end.
    """

    stall_us: float
    source: BoundSource
    shares: tuple[float, ...] = ()
    proven: bool = False


NO_BOUND = StallBound(0.0, BoundSource.TRIVIAL)


def fluid_bound(problem: Problem, solver: SolverName, limits: Limits) -> StallBound:
    """Returns the loose bound: the relaxation of `planner.ilp.model` with goal FLUID.

    Raises:
        SolverError: The solver is missing or failed.
    """
    relaxed = solve_model(build(problem, Goal.FLUID), solver, limits)
    if relaxed.outcome is not Outcome.OPTIMAL:
        # A relaxation stopped early bounds nothing.
        return NO_BOUND
    return _bound(problem, relaxed, BoundSource.RELAXATION)


def whole_bound(
    problem: Problem,
    solver: SolverName,
    limits: Limits,
    *,
    gap: float = GAP_REL,
    enough_us: float = math.inf,
) -> StallBound:
    """Returns the tight bound: what a solver proves about `planner.ilp.model` with goal STALL.

    Args:
        problem: The problem.
        solver: Which solver.
        limits: When to stop; a bound proven by then holds all the same.
        gap: Near enough to the best bound of all, as a share of it.
        enough_us: A bound this high is good enough (HiGHS).

    Raises:
        SolverError: The solver is missing or failed.
    """
    enough = enough_us / units_of(problem).time_us
    solved = solve_model(build(problem, Goal.STALL), solver, limits, gap=gap, enough=enough)
    if not math.isfinite(solved.bound):
        return NO_BOUND
    return _bound(problem, solved, BoundSource.WHOLE_STORAGES)


def _bound(problem: Problem, solved: Solved, source: BoundSource) -> StallBound:
    unit_us = units_of(problem).time_us
    stall_us = solved.bound * unit_us
    held_us = max(0.0, stall_us - ROUNDING * (abs(stall_us) + unit_us))
    found = solved.outcome in (Outcome.OPTIMAL, Outcome.FOUND)
    shares = solved.shares if found else ()
    return StallBound(held_us, source, shares, solved.outcome is Outcome.OPTIMAL)
