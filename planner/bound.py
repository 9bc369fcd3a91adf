"""The lower bound on the stall of every plan, from the relaxed ILP."""

from typing import NamedTuple

from planner.model import build
from planner.plan import BoundSource
from planner.problem import Problem
from planner.solver import Outcome, Solved, solve_model
from planner.solver_name import SolverName
from planner.variables import Goal, units_of

ROUNDING = 1e-6
"""The bound is taken down by this share of itself and of a unit: the solvers' tolerance."""


class StallBound(NamedTuple):
    """A bound and where it comes from.

    Attributes:
        stall_us: No plan can wait less.
        source: How that is known.
        shares: How much of each gap the relaxation uses; empty if there was none.
    """

    stall_us: float
    source: BoundSource
    shares: tuple[float, ...]


def stall_bound(problem: Problem, solver: SolverName, time_limit_s: float) -> StallBound:
    """Solves the relaxation of `planner.model` with goal STALL.

    Raises:
        SolverError: The solver is missing or failed.
    """
    relaxed = solve_model(build(problem, Goal.STALL), solver, time_limit_s)
    if relaxed.outcome is not Outcome.OPTIMAL:
        # A relaxation stopped early bounds nothing.
        return StallBound(0.0, BoundSource.TRIVIAL, tuple(relaxed.shares))
    return StallBound(_bound_us(problem, relaxed), BoundSource.RELAXATION, tuple(relaxed.shares))


def _bound_us(problem: Problem, relaxed: Solved) -> float:
    unit_us = units_of(problem).time_us
    stall_us = relaxed.objective * unit_us
    return max(0.0, stall_us - ROUNDING * (stall_us + unit_us))
