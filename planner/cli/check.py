"""`plan check`: derives a plan's figures again and compares."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.course_sets import holds_courses
from planner.cli.json_output import print_json
from planner.cli.options import AsJson, PlanFile, TimeLimit
from planner.cli.output import print_line, print_rows, progress_bars
from planner.ilp.deadline import SolverName
from planner.plan.plan_file import read_unverified_plan
from planner.plan.plan_set import PlanSet, read_unverified_plan_set
from profiles.library.index import profile_path
from profiles.schema.course_set import MARK, shortened
from profiles.schema.profile_file import read_profile
from profiles.schema.units import size_text

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from planner.studies.check import Check
    from profiles.schema.profile import Profile

_UNCHECKED = (
    " The bound, and that the plan fits its step, take the profile: plan check PLAN PROFILE."
)
_SAID = (
    "Taken from the file as it stands: which program and which solver made it, in how many "
    "seconds, and what the solver proved of its own model."
)


def check(
    plan: PlanFile,
    profile: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROFILE",
            help="The profile it was made from, or library:NAME: then the bound is checked too, "
            "and that the plan is this step's.",
        ),
    ] = None,
    solver: Annotated[
        SolverName | None,
        typer.Option(help="Which solver PuLP drives for the bound; by default the plan's."),
    ] = None,
    time_limit: TimeLimit = 600.0,
    as_json: AsJson = False,
) -> None:
    """Derives peak, stall and bound again from the files alone; exit code 1 if any differs."""
    if not as_json and holds_courses(plan, PlanSet):
        _check_courses(plan, profile, solver, time_limit)
        return
    from planner.studies.check import check_plan

    stored = read_unverified_plan(plan)
    if profile is None:
        found = check_plan(stored)
    else:
        found = _check_against(stored, read_profile(profile_path(profile)), solver, time_limit)
    if as_json:
        print_json(figures=found.figures, mismatches=found.mismatches)
    else:
        _print_figures(found)
    for mismatch in found.mismatches:
        print_line(f"plan: the check failed: {mismatch}", error=True)
    if found.mismatches:
        raise typer.Exit(1)
    if not as_json:
        print("Checked: every figure is what the files say." + ("" if profile else _UNCHECKED))
        print(_SAID)


def _check_courses(
    plans: Path, profiles: Path | None, solver: SolverName | None, time_limit_s: float
) -> None:
    """Checks each plan of a file, with the profile of the same number if there are profiles."""
    for number, entry in enumerate(read_unverified_plan_set(plans).courses, 1):
        print_line(f"Course {number}: {shortened(entry.course)}")
        one = None if profiles is None else Path(f"{profiles}{MARK}{number}")
        check(Path(f"{plans}{MARK}{number}"), one, solver, time_limit_s)


def _check_against(
    plan: "Plan", profile: "Profile", solver: SolverName | None, time_limit_s: float
) -> "Check":
    with progress_bars() as progress:
        progress("loading the solver", 0, 1)
        from planner.studies.check import check_plan_against

        progress("checking plan and bound", 0, 1)
        return check_plan_against(plan, profile, solver=solver, time_limit_s=time_limit_s)


def _print_figures(found: "Check") -> None:
    def exact(name: str, figure: float) -> str:
        """What differs must not look the same."""
        return f"{figure} ({size_text(figure)})" if name.endswith("_bytes") else f"{figure:.6f}"

    if found.figures:
        print_rows(
            "Figures of the certificate",
            found.figures,
            ("certificate", "name"),
            ("in the file", lambda figure: exact(figure.name, figure.stored), str),
            ("derived again", lambda figure: exact(figure.name, figure.derived), str),
            ("by", "source"),
            ("same", lambda figure: "yes" if figure.matches else "NO"),
        )
