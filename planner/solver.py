"""Runs a solver on a model and reads back only what the solver stands behind."""

import math
import time
from dataclasses import dataclass
from enum import Enum, auto

import pulp

from planner.solver_name import SolverName
from planner.solver_runs import Cbc, Highs, Run
from planner.stop import Limits
from planner.variables import Model
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
        bound: No solution has a lower objective; minus infinity if the solver told nothing.
        chosen: Indices of the gaps used (empty without a solution and for a relaxation).
        shares: Value of each x, as it is; fractions for a relaxation.
        seconds: Wall time.
    """

    outcome: Outcome
    objective: float
    bound: float
    chosen: frozenset[int]
    shares: tuple[float, ...]
    seconds: float


def solve_model(
    model: Model,
    name: SolverName,
    limits: Limits,
    *,
    gap: float = GAP_REL,
    enough: float = math.inf,
) -> Solved:
    """Solves a model.

    Args:
        model: The model.
        name: Which solver.
        limits: When the best solution so far is taken.
        gap: Near enough to the optimum, as a share of it.
        enough: A bound this high, in the model's units, ends a search for binaries (HiGHS).

    Raises:
        SolverError: The solver is missing or failed.
    """
    started_s = time.perf_counter()
    program = model.program
    run = _run(name, limits, gap, enough)
    try:
        program.solve(run.solver)
        bound = run.bound(program)
    except pulp.PulpSolverError as error:
        raise SolverError(
            f"{name.value} failed: {error}. Try the other one of --solver."
        ) from error
    outcome = _outcome(model)
    shares = tuple(float(used.varValue or 0.0) for used in model.used)
    seconds = time.perf_counter() - started_s
    if outcome in (Outcome.NOTHING, Outcome.INFEASIBLE):
        return Solved(outcome, 0.0, bound, frozenset(), shares, seconds)
    objective = float(pulp.value(program.objective))
    chosen = frozenset(i for i, share in enumerate(shares) if share > 0.5)
    if not program.isMIP():
        bound = objective if outcome is Outcome.OPTIMAL else -math.inf
        chosen = frozenset()
    return Solved(outcome, objective, bound, chosen, shares, seconds)


def _run(name: SolverName, limits: Limits, gap: float, enough: float) -> Run:
    settings = {
        "msg": False,
        "timeLimit": max(1.0, limits.left_s),
        "gapRel": gap,
        "gapAbs": GAP_ABS_UNITS if gap > 0 else 0.0,
        # One thread: plans do not depend on how busy the machine is.
        "threads": 1,
    }
    run = Highs(settings, limits, enough) if name is SolverName.HIGHS else Cbc(settings)
    if not run.solver.available():
        raise SolverError(f"{name.value} is not installed. {OTHER_SOLVER}")
    return run


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
