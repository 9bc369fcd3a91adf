"""`plan show`: a profile or a plan, readable."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import wrote

if TYPE_CHECKING:
    from planner.plan import Plan
    from profiles.profile import Profile


def show(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="From 'plan profile' or 'plan solve', or library:NAME (see 'plan library').",
            show_default=False,
        ),
    ],
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw memory over the step into this PNG file."),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many storages or swaps to list.")] = 15,
) -> None:
    """Shows a profile or a plan: figures, storages or swaps, and memory over the step."""
    from planner.cli.report import print_plan, print_profile
    from planner.plan import Plan, read_plan
    from profiles.files import check_writable, format_of
    from profiles.library.index import profile_path
    from profiles.profile import read_profile

    if png is not None:
        check_writable(png, keep=file)
    file = profile_path(file)
    content = read_plan(file) if format_of(file) == Plan.FORMAT else read_profile(file)
    if isinstance(content, Plan):
        print_plan(content, top=top)
    else:
        print_profile(content, top=top)
    if png is not None:
        budget_bytes = content.budget_bytes if isinstance(content, Plan) else None
        _draw(content, budget_bytes, f"Memory over one step: {file.name}", png)
        wrote(png)


def _draw(content: "Profile | Plan", budget_bytes: int | None, title: str, png: Path) -> None:
    from planner.plots import memory_figure, png_bytes
    from planner.tables import memory_table
    from profiles.files import write_atomically

    figure = memory_figure(
        memory_table(content), title=title, times=content.times, budget_bytes=budget_bytes
    )
    write_atomically(png_bytes(figure), png)
