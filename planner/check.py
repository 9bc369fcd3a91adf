"""Checks a plan file: every figure of its certificate is derived again, from the files alone.

Peak, bytes and stall follow from the plan, by walking its anchors and simulating its copies. The
bound follows from the profile: the relaxation of `planner.model` is solved again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import model_validator

from planner.plan import BoundSource, Plan
from planner.solver_name import SolverName
from planner.verify import derived_figures, first_fault, same_time, structure_fault
from planner.verify_against import first_fault_against
from profiles.errors import SolverError
from profiles.files import read_file
from profiles.profile import Profile

BOUND_TOLERANCE = 1e-6
"""How far two solutions of one relaxation may be apart, as a share of the step time: a solver meets
each row to about 1e-7 of its unit (`planner.variables.Units`), and rows add up along the step."""


@dataclass(frozen=True, kw_only=True)
class CheckedFigure:
    """A figure of the certificate beside the one derived again.

    Attributes:
        name: Its field.
        stored: What the file says; bytes if the name ends in `_bytes`, else microseconds.
        derived: What it should say.
        source: How it was derived.
        matches: Whether they are the same; times and the bound but for rounding.
    """

    name: str
    stored: int | float
    derived: int | float
    source: str
    matches: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """What checking a plan found.

    Attributes:
        figures: Each figure that could be derived again.
        faults: What else is wrong, each worded with its place in the file.
    """

    figures: tuple[CheckedFigure, ...]
    faults: tuple[str, ...]

    @property
    def mismatches(self) -> tuple[str, ...]:
        """Everything that is wrong, in words."""
        differing = (
            f"certificate.{figure.name} is {figure.stored}, expected {figure.derived} "
            f"({figure.source})"
            for figure in self.figures
            if not figure.matches
        )
        return (*self.faults, *differing)


class StoredPlan(Plan):
    """A plan as its file has it, whatever its figures say."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        # In place of the verification of every other plan: here its outcome is what is asked.
        return self


def read_stored_plan(path: Path | str) -> StoredPlan:
    """Reads a plan file without verifying it.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    return read_file(StoredPlan, Path(path))


def check_plan(plan: Plan) -> Check:
    """Checks a plan by itself: its invariants, and each figure that follows from it."""
    fault = structure_fault(plan)
    if fault is not None:
        # Nothing can be derived from what does not hold together.
        return Check(figures=(), faults=(fault,))
    figures = tuple(_figure(plan, name, derived) for name, derived in derived_figures(plan).items())
    fault = first_fault(plan) if all(figure.matches for figure in figures) else None
    return Check(figures=figures, faults=(fault,) if fault else ())


def check_plan_against(
    plan: Plan, profile: Profile, *, solver: SolverName | None = None, time_limit_s: float = 600.0
) -> Check:
    """Checks a plan against the profile it names, and the bound.

    Args:
        plan: The plan.
        profile: The step it should be for.
        solver: Which solver PuLP drives; the plan's if None.
        time_limit_s: Wall time for solving the relaxation.

    Raises:
        SolverError: The solver is missing, failed, or was stopped by the time limit.
    """
    alone = check_plan(plan)
    if alone.faults:
        return alone
    fault = first_fault_against(plan, profile) or _size_fault(plan)
    if fault is not None:
        return Check(figures=alone.figures, faults=(fault,))
    named = plan.certificate.solver
    if solver is None and named not in tuple(SolverName):
        fault = f"certificate.solver is {named!r}, expected {' or '.join(SolverName)}"
        return Check(figures=alone.figures, faults=(fault,))
    bound = _checked_bound(plan, profile, solver or SolverName(named), time_limit_s)
    return Check(figures=(*alone.figures, bound), faults=())


def _figure(plan: Plan, name: str, derived: int | float) -> CheckedFigure:
    stored = getattr(plan.certificate, name)
    is_time = name.endswith("_us")
    return CheckedFigure(
        name=name,
        stored=stored,
        derived=derived,
        source=_SOURCES[name],
        matches=same_time(stored, derived) if is_time else stored == derived,
    )


_SOURCES = {
    "peak_without_bytes": "the largest slot",
    "peak_bytes": "walking the anchors",
    "d2h_bytes": "adding up the swaps",
    "h2d_bytes": "adding up the swaps",
    "compute_us": "adding up the slots",
    "simulated_stall_us": "simulating the copies",
}


def _size_fault(plan: Plan) -> str | None:
    """A swap that the plan's own bound does not know: the bound is over storages not too small."""
    for position, swap in enumerate(plan.swaps):
        size_bytes = plan.storage(swap.storage).size_bytes
        if size_bytes < plan.min_size_bytes:
            return (
                f"swaps[{position}] moves {size_bytes} bytes, expected at least "
                f"{plan.min_size_bytes} (min_size_bytes)"
            )
    return None


def _checked_bound(
    plan: Plan, profile: Profile, solver: SolverName, time_limit_s: float
) -> CheckedFigure:
    about = plan.certificate
    derived_us, source = 0.0, "nothing was proved"
    if about.bound_source is BoundSource.RELAXATION:
        derived_us = _bound_us(plan, profile, solver, time_limit_s)
        source = f"solving the relaxation with {solver.value}"
    tolerance_us = BOUND_TOLERANCE * (about.compute_us + derived_us)
    return CheckedFigure(
        name="bound_stall_us",
        stored=about.bound_stall_us,
        derived=derived_us,
        source=source,
        matches=abs(about.bound_stall_us - derived_us) <= tolerance_us,
    )


def _bound_us(plan: Plan, profile: Profile, solver: SolverName, time_limit_s: float) -> float:
    from planner.bound import stall_bound
    from planner.problem_of import problem_of

    problem = problem_of(
        profile,
        budget_bytes=plan.budget_bytes,
        link=plan.link,
        host_budget_bytes=plan.host_budget_bytes,
        min_size_bytes=plan.min_size_bytes,
        boundary=plan.boundary,
    )
    if problem.fits(()):
        return 0.0
    bound = stall_bound(problem, solver, time_limit_s)
    if bound.source is not BoundSource.RELAXATION:
        raise SolverError(
            f"{solver.value} did not solve the relaxation within {time_limit_s:.0f} s, so the "
            "bound is not checked. Give a larger --time-limit, or try the other one of --solver."
        )
    return bound.stall_us
