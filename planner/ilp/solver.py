"""Runs a solver on a model, reads back only what the solver stands behind, and bounds the stall.

Every plan's stall has two lower bounds: a loose one, from the relaxation, and a tight one.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import highspy
import pulp
from pulp.constants import LpInteger

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.model import build
from planner.ilp.variables import Goal, Model
from planner.plan.plan import BoundSource
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import NO_OFFERS, Offers
from profiles.schema.errors import SolverError


class Highs:
    """HiGHS, in this process; a deadline, or a bound that is high enough, ends it while it runs."""

    def __init__(self, settings: Mapping[str, Any], deadline: Deadline, enough: float) -> None:
        self._deadline = deadline
        self._enough = enough
        kinds = highspy.cb.HighsCallbackType
        self.solver = pulp.HiGHS(
            callbackTuple=(self._asked, None),
            callbacksToActivate=[
                kinds.kCallbackMipInterrupt,
                kinds.kCallbackSimplexInterrupt,
                kinds.kCallbackIpmInterrupt,
            ],
            **settings,
        )

    def _asked(self, kind: Any, message: str, out: Any, back: Any, _: Any) -> None:
        in_tree = kind == highspy.cb.HighsCallbackType.kCallbackMipInterrupt
        enough = in_tree and out.mip_dual_bound >= self._enough
        back.user_interrupt = enough or self._deadline.stop()

    def bound(self, program: pulp.LpProblem) -> float:
        """Returns what no solution is below, after the run; minus infinity if nothing is known."""
        highs = program.solverModel
        return -math.inf if highs is None else float(highs.getInfo().mip_dual_bound)


class Cbc:
    """CBC, in a process of its own; its bound stands in its log alone.

    Raises:
        SolverError: There is no folder for its files.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            self._folder = TemporaryDirectory(prefix="swapplan-cbc-")
        except OSError as error:
            raise SolverError(
                f"cbc needs a folder for temporary files ({error.strerror or error}). Set TMPDIR "
                "to one that can be written, or use --solver highs."
            ) from error
        if any(letter.isspace() for letter in self._folder.name):
            self._folder.cleanup()
            raise SolverError(
                f"cbc cannot read files in a folder with a space in its name, and TMPDIR is "
                f"{str(Path(self._folder.name).parent)!r}. Set TMPDIR to another one, or use "
                "--solver highs."
            )
        self._log = Path(self._folder.name) / "cbc.log"
        # PuLP's own class for its CBC warns that it will go; this is the same program.
        self.solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path, logPath=str(self._log), **settings
        )
        # Whatever ends the run, its files go with the folder.
        self.solver.tmpDir = self._folder.name

    def bound(self, program: pulp.LpProblem) -> float:
        """Returns the bound that CBC reports, likewise; its objective if that is optimal."""
        text = self._log.read_text()
        self._folder.cleanup()
        found = re.findall(r"^(?:Lower bound|best possible):\s+(\S+)", text, re.MULTILINE)
        if found:
            return float(found[-1])
        solved = re.search(r"^Result - Optimal solution found$", text, re.MULTILINE)
        value = re.search(r"^Objective value:\s+(\S+)", text, re.MULTILINE)
        return float(value[1]) if solved and value else -math.inf


INTEGER_TOLERANCE = 1e-4
ROUNDING = 1e-6
"""A bound is taken down by this share of itself and of a unit: the solvers' tolerance."""
SLOW_HEURISTICS = ("mip_heuristic_run_rens", "mip_heuristic_run_root_reduced_cost")
"""Those of HiGHS that solve programs nearly as large as the model, for half of the time."""
PROBING = 1 << 15
"""The bit of HiGHS's option `presolve_rule_off` for probing, which takes a fifth to a third of the
time where storages have places, and shortens the rest by less."""
OTHER_SOLVER = "Try the other one of --solver."


class Outcome(Enum):
    """What a solver run ended with.

    [Note: Status]
    PuLP's `status` says "Optimal" for a run stopped by its time limit, with either solver; only
    `sol_status` separates proven from found. CBC stopped without an incumbent leaves fractions of
    the relaxation in the binaries, and HiGHS zeros: so what is found is checked before it is used.
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
        bound: No solution has a lower objective, in the model's units; minus infinity if the solver
            said nothing.
        chosen: Indices of the gaps used (empty without a solution and for a relaxation).
        shares: Value of each x, as it is; fractions for a relaxation; empty without a solution.
        dropped: For each gap, the value of the z that drops it to its end, likewise.
    """

    outcome: Outcome
    bound: float
    chosen: frozenset[int]
    shares: tuple[float, ...]
    dropped: Mapping[int, float]


def solve_model(
    model: Model,
    name: SolverName,
    deadline: Deadline,
    *,
    mip_gap: float = SETTINGS.mip_gap,
    enough: float = math.inf,
    cutoff: float = math.inf,
) -> Solved:
    """Solves a model, or takes the best solution at the deadline.

    A `mip_gap` is near enough to the optimum, as a share of it; a bound of `enough`, in the model's
    units, ends a search for binaries (HiGHS). What costs more than a `cutoff`, in those units, is
    not looked for (HiGHS): if all does, there is no solution.

    Raises:
        SolverError: The solver is missing or failed.
    """
    program = model.program
    run = _run(model, name, deadline, mip_gap, enough, cutoff)
    try:
        program.solve(run.solver)
        # Nothing is known of what was cut off.
        bound = min(run.bound(program), cutoff)
    except pulp.PulpSolverError as error:
        raise SolverError(f"{name.value} failed: {error}. {OTHER_SOLVER}") from error
    outcome = _outcome(model)
    if outcome in (Outcome.NOTHING, Outcome.INFEASIBLE):
        return Solved(outcome, bound, frozenset(), (), {})
    own = model.used[: model.whole_count]
    shares = tuple(float(used.varValue or 0.0) for used in own)
    dropped = _dropped(model)
    if program.isMIP():
        chosen = frozenset(i for i, share in enumerate(shares) if share > 0.5)
        return Solved(outcome, bound, chosen, shares, dropped)
    is_solved = outcome is Outcome.OPTIMAL
    bound = float(pulp.value(program.objective)) if is_solved else -math.inf
    return Solved(outcome, bound, frozenset(), shares, dropped)


def _run(
    model: Model,
    name: SolverName,
    deadline: Deadline,
    mip_gap: float,
    enough: float,
    cutoff: float,
) -> Highs | Cbc:
    settings = {
        "msg": False,
        "timeLimit": max(1.0, deadline.left_s),
        "gapRel": mip_gap,
        "gapAbs": SETTINGS.mip_gap_units if mip_gap > 0 else 0.0,
        # One thread: plans do not depend on how busy the machine is.
        "threads": 1,
    }
    if name is SolverName.HIGHS:
        run: Highs | Cbc = Highs(settings | _options_of_highs(model, cutoff), deadline, enough)
    else:
        run = Cbc(settings)
    if not run.solver.available():
        raise SolverError(f"{name.value} is not installed. {OTHER_SOLVER}")
    return run


def _options_of_highs(model: Model, cutoff: float) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if model.offers.whole_bytes:
        options["mip_heuristic_effort"] = SETTINGS.bound_effort
        options |= dict.fromkeys(SLOW_HEURISTICS, False)
        options["presolve_rule_off"] = PROBING
    if cutoff < math.inf:
        options["objective_bound"] = cutoff
    program = model.program
    if not program.isMIP() and len(program.constraints()) > SETTINGS.max_simplex_rows:
        options["solver"] = "ipm"
    return options


def _dropped(model: Model) -> dict[int, float]:
    shares: dict[int, float] = {}
    for variable, option in zip(model.dropped, model.offers.options, strict=True):
        shares[option.gap] = shares.get(option.gap, 0.0) + float(variable.varValue or 0.0)
    return shares


def _outcome(model: Model) -> Outcome:
    # See [Note: Status].
    status = model.program.sol_status
    if status == pulp.LpSolutionInfeasible:
        return Outcome.INFEASIBLE
    if status == pulp.LpSolutionOptimal:
        if not _integral(model):
            raise SolverError(
                f"the solver calls a solution optimal whose binaries are fractions. {OTHER_SOLVER}"
            )
        return Outcome.OPTIMAL
    if status == pulp.LpSolutionIntegerFeasible and _holds(model):
        return Outcome.FOUND
    return Outcome.NOTHING


def _integral(model: Model) -> bool:
    if not model.program.isMIP():
        return True
    values = [used.varValue for used in model.used if used.cat == LpInteger]
    return all(
        value is not None and min(abs(value), abs(value - 1)) <= INTEGER_TOLERANCE
        for value in values
    )


def _holds(model: Model) -> bool:
    """Whether the values are integral and satisfy every row."""
    rows = model.program.constraints()
    return _integral(model) and all(row.valid(INTEGER_TOLERANCE) for row in rows)


class StallBound(NamedTuple):
    """A bound and where it comes from.

    Attributes:
        stall_us: No plan can wait less.
        source: How that is known.
        shares: How much of each whole gap the solution of the model uses; empty if there was none.
        dropped: How much of each gap that can be rebuilt it drops.
        proven: Whether the model was solved to its end.
    """

    stall_us: float
    source: BoundSource
    shares: tuple[float, ...] = ()
    dropped: Mapping[int, float] = MappingProxyType({})
    proven: bool = False


NO_BOUND = StallBound(0.0, BoundSource.TRIVIAL)


def relaxed_bound(
    problem: Problem,
    solver: SolverName,
    deadline: Deadline,
    offers: Offers = NO_OFFERS,
    unused: Collection[int] = (),
) -> StallBound:
    """Returns the loose bound: the relaxation of `planner.ilp.model` with goal RELAXED.

    With `unused` gaps it is the bound on plans that use none of them.

    Raises:
        SolverError: The solver is missing or failed.
    """
    if deadline.over:
        return NO_BOUND
    model = build(problem, Goal.RELAXED, offers)
    for i in unused:
        model.used[i].upBound = 0
    relaxed = solve_model(model, solver, deadline)
    if relaxed.outcome is not Outcome.OPTIMAL:
        # A relaxation stopped early bounds nothing.
        return NO_BOUND
    return _bound(model, relaxed, BoundSource.RELAXATION)


def whole_bound(
    problem: Problem,
    solver: SolverName,
    deadline: Deadline,
    *,
    mip_gap: float = SETTINGS.mip_gap,
    enough_us: float = math.inf,
    cutoff_us: float = math.inf,
    offers: Offers = NO_OFFERS,
) -> StallBound:
    """Returns the tight bound: what a solver proves about `planner.ilp.model` with goal STALL.

    A bound proven by the deadline holds all the same. The rest is as in `solve_model`.

    Raises:
        SolverError: The solver is missing or failed.
    """
    if deadline.over:
        return NO_BOUND
    return proven_bound(
        build(problem, Goal.STALL, offers),
        solver,
        deadline,
        mip_gap=mip_gap,
        enough_us=enough_us,
        cutoff_us=cutoff_us,
    )


def proven_bound(
    model: Model,
    solver: SolverName,
    deadline: Deadline,
    *,
    mip_gap: float = SETTINGS.mip_gap,
    enough_us: float = math.inf,
    cutoff_us: float = math.inf,
) -> StallBound:
    """The same, of a model that is built already.

    Raises:
        SolverError: The solver is missing or failed.
    """
    if deadline.over:
        return NO_BOUND
    unit_us = model.units.time_us
    solved = solve_model(
        model,
        solver,
        deadline,
        mip_gap=mip_gap,
        enough=enough_us / unit_us,
        cutoff=cutoff_us / unit_us,
    )
    if solved.outcome is Outcome.INFEASIBLE or not math.isfinite(solved.bound):
        return NO_BOUND
    return _bound(model, solved, BoundSource.WHOLE_STORAGES)


def _bound(model: Model, solved: Solved, source: BoundSource) -> StallBound:
    unit_us = model.units.time_us
    stall_us = solved.bound * unit_us
    bound_us = max(0.0, stall_us - ROUNDING * (abs(stall_us) + unit_us))
    proven = solved.outcome is Outcome.OPTIMAL
    return StallBound(bound_us, source, solved.shares, solved.dropped, proven)
