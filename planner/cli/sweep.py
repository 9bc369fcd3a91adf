"""`plan sweep`: plans one step for many budgets, links and numbers of workers."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import options
from planner.cli.json_output import print_json
from planner.cli.output import print_line, print_table, progress_bars, wrote
from planner.cli.output_file import check_output
from planner.cli.request import PlanRequest, link_names, print_other_way
from planner.ilp.deadline import SolverName
from planner.plan.plan import BoundSource
from profiles.library.index import profile_path
from profiles.schema.files import write_atomically
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile
from profiles.schema.units import size_text, size_text_up, time_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from planner.studies.sweep import SweepPoint, SweepRow, SweepSettings

FIGURES = (
    *("peak", "step", "slower", "recompute", "stall", "bound", "gap"),
    *("out", "back", "pool"),
)
NUMBERS = ("workers", "budget", *FIGURES)
UNSOLVED = "*"
"""Behind a bound that is nothing but the time of compute."""


def sweep(
    profile: options.ProfileFile,
    budgets: Annotated[
        str, typer.Option(metavar="SIZES", help="Budgets, with commas: 30%,50%,8GiB.")
    ] = "70%,60%,50%,40%",
    links: options.LinkNames = None,
    workers: options.WorkerCounts = "1",
    share: options.Share = None,
    all_reduce_on_link: options.AllReduceOnLink = False,
    host_budget: options.HostBudget = None,
    solver: options.SolverChoice = SolverName.HIGHS,
    time_limit: options.TimeLimit = 60.0,
    min_size: options.MinSize = None,
    without: options.WithoutChoice = None,
    processes: options.Processes = None,
    output: options.CsvFile = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw step time against budget into this PNG file."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Plans for many budgets, links and numbers of workers: a table, and a curve.

    A budget that cannot be met is a row that says so. Interrupted, it still gives what is finished.
    """
    from planner.studies.sweep import SweepSettings, sweep_points

    request = PlanRequest(
        budget=budgets,
        links=link_names(links),
        workers=workers,
        share=share,
        all_reduce_on_link=all_reduce_on_link,
        host_budget=host_budget,
        min_size=min_size,
        asked_without=without,
    )
    recorded = read_profile(profile_path(profile))
    points = sweep_points(request.choices(recorded), request.budgets_bytes(recorded))
    settings = SweepSettings(
        solver=solver,
        time_limit_s=time_limit,
        min_size_bytes=request.min_size_bytes,
        without=request.without,
    )
    for path in (output, png):
        if path is not None:
            check_output(path, keep=profile)
    rows: dict[int, SweepRow] = {}
    try:
        _solve(recorded, points, settings, processes or os.cpu_count() or 1, rows)
    finally:
        # However it ended: what is finished may have taken minutes.
        finished = [rows[position] for position in sorted(rows)]
        print_sweep(
            recorded, profile.name, finished, len(points), csv=output, png=png, as_json=as_json
        )


def _solve(
    profile: Profile,
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


def print_sweep(
    profile: Profile,
    name: str,
    rows: "Sequence[SweepRow]",
    asked: int,
    *,
    csv: Path | None,
    png: Path | None,
    as_json: bool = False,
) -> None:
    """Prints the finished points of a sweep, and writes them where they are wanted."""
    if len(rows) < asked:
        ended = f"Ended early: {len(rows)} of {asked} plans are finished."
        print_line(ended, error=as_json)
    if not rows:
        return
    from planner.studies.sweep import sweep_table

    def figure(table: "pd.DataFrame") -> "Figure":
        from planner.report.sweep_plots import sweep_figure

        title = f"Step time against budget: {name}"
        return sweep_figure(table, title=title, peak_bytes=profile.peak_bytes, times=profile.times)

    # Files first: what reads the printed table may stop reading.
    written = write_plans(sweep_table(rows), figure, csv, png)
    if as_json:
        print_json(plans=sweep_table(rows))
    else:
        _print_points(profile, rows)
    for path in written:
        wrote(path, error=as_json)


def _print_points(profile: Profile, rows: "Sequence[SweepRow]") -> None:
    print_table(
        f"Step with nothing moved: {time_text(profile.step_us)} ({profile.times.value}), "
        f"{size_text(profile.peak_bytes)}; peak, step, stall, bytes out and back per step and host "
        "pool of one worker: simulated; recompute: ops run again; bound: no plan is faster",
        ("link", *NUMBERS, "outcome"),
        [_cells(row, profile.peak_bytes) for row in rows],
        right=NUMBERS,
        keys=3,
    )
    print_marks(rows, profile)


def write_plans(
    table: "pd.DataFrame",
    figure: "Callable[[pd.DataFrame], Figure]",
    csv: Path | None,
    png: Path | None,
) -> list[Path]:
    """Writes a table of plans and its picture where they are wanted, and returns where that is.

    Raises:
        FileError: A file cannot be written.
    """
    if csv is not None:
        write_atomically(table.to_csv(index=False).encode(), csv)
    if png is not None:
        from planner.report.plots import png_bytes

        write_atomically(png_bytes(figure(table)), png)
    return [path for path in (csv, png) if path is not None]


def print_marks(rows: "Iterable[SweepRow]", profile: Profile) -> None:
    """Prints what the marks of a table mean, and what it takes for granted of several workers."""
    if any(_is_unsolved(row) for row in rows):
        print(
            f"{UNSOLVED} the relaxation was not solved in time: only that nothing computes faster."
        )
    if any(row.workers > 1 and not row.all_reduce_on_link for row in rows):
        print_other_way(profile)


def figure_cells(row: "SweepRow") -> tuple[str, ...]:
    """Returns what `FIGURES` names, of a plan."""
    assert row.step_us is not None
    assert row.bound_step_us is not None
    slower = row.step_us / row.compute_us - 1 if row.compute_us else 0.0
    bytes_of = (row.d2h_bytes, row.h2d_bytes, row.host_pool_bytes)
    return (
        size_text(row.peak_bytes or 0),
        time_text(row.step_us),
        f"{slower:.1%}",
        time_text(row.recompute_us or 0.0),
        time_text(row.stall_us or 0.0),
        time_text(row.bound_step_us) + (UNSOLVED if _is_unsolved(row) else ""),
        f"{row.gap:.2%}",
        *(size_text(size_bytes or 0) for size_bytes in bytes_of),
    )


def _cells(row: "SweepRow", peak_bytes: int) -> tuple[str, ...]:
    budget = f"{size_text(row.budget_bytes)} ({row.budget_bytes / peak_bytes:.0%})"
    asked = (row.link, str(row.workers), budget)
    if row.step_us is None:
        assert row.smallest_budget_bytes is not None
        smallest = f"needs {size_text_up(row.smallest_budget_bytes)}"
        return (*asked, *[""] * len(FIGURES), smallest)
    return (*asked, *figure_cells(row), row.outcome.value)


def _is_unsolved(row: "SweepRow") -> bool:
    """Whether all that is known of a plan's bound is the time of compute."""
    from planner.studies.sweep import SweepOutcome

    return row.outcome is SweepOutcome.PLANNED and row.bound_source is BoundSource.TRIVIAL
