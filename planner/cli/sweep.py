"""`plan sweep`: plans one step for many budgets, links and numbers of workers."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.options import (
    AllReduceOnLink,
    HostBudget,
    MinSize,
    ProfileFile,
    Share,
    SolverChoice,
    TimeLimit,
)
from planner.cli.output import progress_bars
from planner.ilp.deadline import SolverName
from profiles.schema.units import parse_size_bytes

if TYPE_CHECKING:
    from planner.studies.sweep import SweepPoint, SweepRow, SweepSettings
    from profiles.schema.profile import Profile


Budgets = Annotated[
    str,
    typer.Option(metavar="SIZES", show_default=False, help="Budgets, with commas: 30%,50%,8GiB."),
]
LinkNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Links of the table, with commas (see 'plan links'); by default the profile's.",
    ),
]
WorkerCounts = Annotated[
    str, typer.Option(metavar="NUMBERS", help="Numbers of workers of one host, with commas: 1,2,4.")
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="How many plans are made at once; by default one per core."),
]
CsvFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Also write the table, as CSV."),
]
PngFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also draw step time against budget into this PNG file."),
]


def sweep(
    profile: ProfileFile,
    budgets: Budgets,
    links: LinkNames = None,
    workers: WorkerCounts = "1",
    share: Share = None,
    all_reduce_on_link: AllReduceOnLink = False,
    host_budget: HostBudget = None,
    solver: SolverChoice = SolverName.HIGHS,
    time_limit: TimeLimit = 60.0,
    min_size: MinSize = None,
    processes: Processes = None,
    output: CsvFile = None,
    png: PngFile = None,
) -> None:
    """Plans for many budgets, links and numbers of workers: a table, and a curve.

    A budget that cannot be met is a row that says so. Interrupted, it still gives what is finished.
    """
    from planner.cli.sweep_choices import parse_budgets_bytes, parse_link_choices
    from planner.cli.sweep_report import tell_sweep
    from planner.studies.sweep import SweepSettings, sweep_points
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable
    from profiles.schema.profile_file import read_profile

    recorded = read_profile(profile_path(profile))
    choices = parse_link_choices(
        recorded,
        links=links,
        workers=workers,
        share=share,
        all_reduce_on_link=all_reduce_on_link,
        host_budget=host_budget,
    )
    points = sweep_points(choices, parse_budgets_bytes(recorded, budgets))
    settings = SweepSettings(
        solver=solver,
        time_limit_s=time_limit,
        min_size_bytes=parse_size_bytes("--min-size", min_size) if min_size else None,
    )
    for path in (output, png):
        if path is not None:
            check_writable(path, keep=profile)
    rows: dict[int, SweepRow] = {}
    try:
        _solve(recorded, points, settings, processes or os.cpu_count() or 1, rows)
    finally:
        # However it ended: what is finished may have taken minutes.
        finished = [rows[position] for position in sorted(rows)]
        tell_sweep(recorded, profile.name, finished, len(points), csv=output, png=png)


def _solve(
    profile: "Profile",
    points: "Sequence[SweepPoint]",
    settings: "SweepSettings",
    processes: int,
    rows: "dict[int, SweepRow]",
) -> None:
    """Puts each point's row at its position as soon as it is there."""
    from planner.studies.sweep import solve_points

    with (
        progress_bars() as progress,
        closing(solve_points(profile, points, settings, processes=processes)) as solved,
    ):
        progress("planning", 0, len(points))
        for position, row in solved:
            rows[position] = row
            progress("planning", len(rows), len(points))
