"""The smallest budget that can be met, and the message for a budget below it."""

from dataclasses import replace

from planner.budget_wall import UnmetBudgetError, budget_wall
from planner.ilp.deadline import Limits, SolverName
from planner.ilp.model import build
from planner.ilp.solver import Outcome, solve_model
from planner.ilp.variables import Goal
from planner.problem.host_layout import whole_gaps_fit_host, whole_gaps_pool_bytes
from planner.problem.problem import Problem
from profiles.schema.errors import SolverError
from profiles.schema.profile import Profile
from profiles.schema.units import size_text_down, size_text_up

BUDGET_TIME_LIMIT_S = 60.0


def widest_set(problem: Problem, solver: SolverName) -> frozenset[int]:
    """Returns the set of gaps that reaches the smallest budget.

    Without a host budget it is every gap. With one it comes from the ILP with a slack on the budget
    (`planner.ilp.model`, goal BUDGET), and its whole trips fit the host pool.

    Raises:
        SolverError: The solver failed.
    """
    if problem.host_budget_bytes is None or whole_gaps_fit_host(problem, problem.whole_set):
        return problem.whole_set
    host_bytes = problem.host_budget_bytes
    while True:
        # From budget 0, so that the set is the same whatever budget was asked for.
        hard = replace(problem, budget_bytes=0, host_budget_bytes=host_bytes)
        chosen = _solve_budget(hard, solver)
        over_bytes = whole_gaps_pool_bytes(problem, chosen) - problem.host_budget_bytes
        if over_bytes <= 0:
            return chosen
        # The ILP counts bytes, the pool must also place them side by side: leave room for that.
        host_bytes = max(0, host_bytes - over_bytes)


def check_budget(problem: Problem, widest: frozenset[int], profile: Profile) -> None:
    """Checks that the budget can be met at all.

    Args:
        problem: The problem, with the budget asked for.
        widest: From `widest_set`.
        profile: For names.

    Raises:
        UnmetBudgetError: It cannot. The message names the smallest budget that can, and the op
            that sets it.
    """
    if problem.fits(widest):
        return
    wall = budget_wall(profile, problem, widest)
    host = "" if problem.host_budget_bytes is None else ", a larger host budget"
    raise UnmetBudgetError(
        f"budget {size_text_down(problem.budget_bytes)} cannot be met: the smallest that can is "
        f"{size_text_up(wall.smallest_budget_bytes)}, set by {wall.place}. Ask for at least "
        f"that{host}, or make the step smaller (batch, crop, model).",
        wall,
    )


def _solve_budget(problem: Problem, solver: SolverName) -> frozenset[int]:
    # The smallest budget is a figure the user is told to ask for: it must be exact.
    limits = Limits.within(BUDGET_TIME_LIMIT_S)
    solved = solve_model(build(problem, Goal.BUDGET), solver, limits, gap=0.0)
    if solved.outcome not in (Outcome.OPTIMAL, Outcome.FOUND):
        raise SolverError(
            f"{solver.value} found no smallest budget in {BUDGET_TIME_LIMIT_S:.0f} s. Give a "
            "larger --host-budget, or try the other one of --solver."
        )
    return solved.chosen
