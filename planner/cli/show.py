"""`plan show`: a profile or a plan, readable."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import wrote

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from profiles.schema.profile import Profile


from planner.cli.options import OutputFile


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
    from planner.plan.plan import Plan
    from planner.plan.plan_file import read_plan
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable, format_of
    from profiles.schema.profile_file import read_profile

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
    from planner.report.plots import memory_figure, png_bytes
    from planner.report.tables import memory_table
    from profiles.schema.files import write_atomically

    figure = memory_figure(
        memory_table(content), title=title, times=content.times, budget_bytes=budget_bytes
    )
    write_atomically(png_bytes(figure), png)


def report(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="From 'plan solve'.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            show_default=False,
            help="Where to write the page, such as report.html. An older file there is replaced "
            "once the new one is complete.",
        ),
    ],
) -> None:
    """Writes a plan as one HTML page: figures, memory, lanes to zoom into, and every swap."""
    from planner.plan.plan_file import read_plan
    from planner.report.page import write_report_page
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable

    check_writable(output, keep=plan)
    write_report_page(read_plan(profile_path(plan)), output)
    wrote(output)


def trace(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="From 'plan solve'.", show_default=False)
    ],
    output: OutputFile,
) -> None:
    """Writes a plan's simulated step as a trace, for ui.perfetto.dev or chrome://tracing."""
    from planner.plan.plan_file import read_plan
    from planner.report.perfetto import write_trace
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable

    check_writable(output, keep=plan)
    write_trace(read_plan(profile_path(plan)), output)
    wrote(output)
