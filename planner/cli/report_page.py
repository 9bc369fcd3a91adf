"""`plan report`: a plan as a page to look at."""

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.output import wrote


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
    from planner.plan import read_plan
    from planner.report_page import write_report_page
    from profiles.files import check_writable
    from profiles.library.index import profile_path

    check_writable(output, keep=plan)
    write_report_page(read_plan(profile_path(plan)), output)
    wrote(output)
