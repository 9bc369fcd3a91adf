"""`plan trace`: the simulated step, for a trace viewer."""

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.options import OutputFile
from planner.cli.output import wrote


def trace(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="From 'plan solve'.", show_default=False)
    ],
    output: OutputFile,
) -> None:
    """Writes a plan's simulated step as a trace, for ui.perfetto.dev or chrome://tracing."""
    from planner.plan import read_plan
    from planner.trace_events import write_trace
    from profiles.files import check_writable
    from profiles.library.index import profile_path

    check_writable(output, keep=plan)
    write_trace(read_plan(profile_path(plan)), output)
    wrote(output)
