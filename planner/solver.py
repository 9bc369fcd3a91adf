"""Runs a solver on a model and reads back only what the solver stands behind."""

import time
from dataclasses import dataclass
from enum import Enum, auto

import pulp

from planner.solver_name import SolverName
from planner.variables import Goal, Model
from profiles.errors import SolverError

GAP_REL = 1e-3
GAP_ABS_UNITS = 1e-2
"""Near zero stall a relative gap never closes; this is the time to copy 0.01% of the peak."""
INTEGER_TOLERANCE = 1e-4
OTHER_SOLVER = "Try the other one of --solver."


class Outcome(Enum):
    """What a solver run ended with.

    [Note: Status]
    PuLP's `status` says "Optimal" for a run stopped by its time limit, with either solver; only
    `sol_status` tells proven from found. CBC stopped without an incumbent leaves fractions of the
    relaxation in the binaries, and HiGHS zeros: so a found solution is checked before it is used.
    """

    OPTIMAL = auto()
    """Proven, within the solver's gap."""
    FOUND = auto()
    """A solution that holds, not proven to be the best."""
    NOTHING = auto()
    """Stopped before any solution."""
    INFEASIBLE = auto()
    """Proven to have none."""


@dataclass(frozen=True)
class Solved:
    """What came back.

    Attributes:
        outcome: How far the values can be trusted.
        objective: Value of the objective, in the model's units; 0 without a solution.
        chosen: Indices of the gaps used (empty without a solution and for a relaxation).
        shares: Value of each x, as it is; fractions for a relaxation.
        seconds: Wall time.
    """

    outcome: Outcome
    objective: float
    chosen: frozenset[int]
    shares: tuple[float, ...]
    seconds: float


def solve_model(model: Model, name: SolverName, time_limit_s: float) -> Solved:
    """Solves a model.

    Args:
        model: The model.
        name: Which solver.
        time_limit_s: Wall time after which the best solution so far is taken.

    Raises:
        SolverError: The solver is missing or failed.
    """
    started_s = time.perf_counter()
    program = model.program
    try:
        program.solve(_solver(name, model.goal, time_limit_s))
    except pulp.PulpSolverError as error:
        raise SolverError(
            f"{name.value} failed: {error}. Try the other one of --solver."
        ) from error
    outcome = _outcome(model)
    shares = tuple(float(used.varValue or 0.0) for used in model.used)
    seconds = time.perf_counter() - started_s
    if outcome in (Outcome.NOTHING, Outcome.INFEASIBLE):
        return Solved(outcome, 0.0, frozenset(), shares, seconds)
    objective = float(pulp.value(program.objective))
    chosen = frozenset(i for i, share in enumerate(shares) if share > 0.5)
    return Solved(outcome, objective, chosen if program.isMIP() else frozenset(), shares, seconds)


def _solver(name: SolverName, goal: Goal, time_limit_s: float) -> pulp.LpSolver:
    # The smallest budget is a figure the user is told to ask for: it must be exact.
    exact = goal is Goal.BUDGET
    settings = {
        "msg": False,
        "timeLimit": max(1.0, time_limit_s),
        "gapRel": 0.0 if exact else GAP_REL,
        "gapAbs": 0.0 if exact else GAP_ABS_UNITS,
        # One thread: plans do not depend on how busy the machine is.
        "threads": 1,
    }
    if name is SolverName.HIGHS:
        solver = pulp.HiGHS(**settings)
    else:
        # PuLP's own class for its CBC warns that it will go; this is the same program.
        solver = pulp.COIN_CMD(path=pulp.PULP_CBC_CMD.pulp_cbc_path, **settings)
    if not solver.available():
        raise SolverError(f"{name.value} is not installed. {OTHER_SOLVER}")
    return solver


def _outcome(model: Model) -> Outcome:
    """See [Note: Status]."""
    status = model.program.sol_status
    if status == pulp.LpSolutionInfeasible:
        return Outcome.INFEASIBLE
    if status == pulp.LpSolutionOptimal:
        _check_binaries(model)
        return Outcome.OPTIMAL
    if status == pulp.LpSolutionIntegerFeasible and _holds(model):
        return Outcome.FOUND
    return Outcome.NOTHING


def _check_binaries(model: Model) -> None:
    if not _integral(model):
        raise SolverError(
            f"the solver calls a solution optimal whose binaries are fractions. {OTHER_SOLVER}"
        )


def _integral(model: Model) -> bool:
    if not model.program.isMIP():
        return True
    values = [used.varValue for used in model.used]
    return all(
        value is not None and min(abs(value), abs(value - 1)) <= INTEGER_TOLERANCE
        for value in values
    )


def _holds(model: Model) -> bool:
    """Whether the values are integral and satisfy every row."""
    if not _integral(model):
        return False
    return all(row.valid(INTEGER_TOLERANCE) for row in model.program.constraints())
