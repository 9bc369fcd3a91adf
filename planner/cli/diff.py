"""`plan diff`: two plans, or two profiles, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from profiles.schema.profile import Profile

HELP = "From 'plan profile' or 'plan solve', or library:NAME (see 'plan library')."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=HELP, show_default=False)],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="Another of the same kind.", show_default=False)
    ],
    top: Annotated[
        int, typer.Option(min=0, help="How many storages, anchors or operators to list.")
    ] = 15,
) -> None:
    """Compares two plans, or two profiles: what differs, what that costs, and why."""
    from planner.cli.diff_report import print_plan_differences, print_profile_differences
    from planner.plan.plan import Plan
    from profiles.schema.errors import FileError
    from profiles.schema.profile import Profile

    one, other = _read(a), _read(b)
    # Read before anything is said, so that a wrong second file leaves no half of an answer.
    if isinstance(one, Plan) and isinstance(other, Plan):
        print_plan_differences(one, other, names=(str(a), str(b)), top=top)
    elif isinstance(one, Profile) and isinstance(other, Profile):
        print_profile_differences(one, other, names=(str(a), str(b)), top=top)
    else:
        raise FileError(
            f"{a} is a {_kind(one)} and {b} is a {_kind(other)}: they cannot be compared. Give two "
            "plans or two profiles."
        )


def _read(file: Path) -> "Plan | Profile":
    from planner.plan.plan import Plan
    from planner.plan.plan_file import read_plan
    from profiles.library.index import profile_path
    from profiles.schema.files import format_of
    from profiles.schema.profile_file import read_profile

    path = profile_path(file)
    return read_plan(path) if format_of(path) == Plan.FORMAT else read_profile(path)


def _kind(content: "Plan | Profile") -> str:
    from planner.plan.plan import Plan

    return "plan" if isinstance(content, Plan) else "profile"
