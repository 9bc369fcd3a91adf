"""`plan limits`: how far a step can grow on a device, without and with a plan."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import options
from planner.cli.json_output import print_json
from planner.cli.output import print_line, print_table, progress_bars, wrote
from planner.cli.output_file import check_output
from planner.cli.request import PlanRequest, link_names
from planner.cli.sweep import FIGURES, figure_cells, print_marks, write_plans
from planner.ilp.deadline import SolverName
from profiles.schema.units import parse_size_bytes, size_text, size_text_up, time_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from planner.studies.limits import Footprint, Limits, LimitsRow
    from runtime.cli.growing import LimitsSearch

Grow = Annotated[
    str,
    typer.Option(
        metavar="KEY",
        help="The setting that grows, a whole number, such as size, resolution or batch.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The accelerator to estimate for, such as v100-16gb or h200."
    ),
]
MultipleOf = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Try multiples of N only; by default what a built-in workload takes, else 1.",
    ),
]
DeviceBudget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Device bytes to stay within; by default the device's memory less 1 GiB, taken "
        "to be what CUDA and fragments use.",
    ),
]
Points = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Plan N settings that only a plan can train, the largest one among them.",
    ),
]
PngFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also draw slowdown against the setting into this PNG."),
]


def limits(
    workload: options.Workload,
    grow: Grow,
    device: Device,
    setting: options.Settings = None,
    seed: options.Seed = 0,
    multiple_of: MultipleOf = None,
    budget: DeviceBudget = None,
    links: options.LinkNames = None,
    workers: options.WorkerCounts = "1",
    share: options.Share = None,
    all_reduce_on_link: options.AllReduceOnLink = False,
    host_budget: options.HostBudget = None,
    without: options.WithoutChoice = None,
    points: Points = 1,
    solver: options.SolverChoice = SolverName.HIGHS,
    time_limit: options.TimeLimit = 60.0,
    processes: options.Processes = None,
    output: options.CsvFile = None,
    png: PngFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Finds the largest setting that a device can train, without and with a plan, and how slow.

    Nothing is run: steps are estimated. Interrupted, it still gives what is finished.
    """
    from planner.studies.sweep import SweepSettings
    from runtime.cli.growing import LimitsSearch, choose_growing

    given = options.parse_settings(setting)
    grown = choose_growing(
        workload, key=grow, device=device, settings=given, seed=seed, multiple_of=multiple_of
    )
    request = PlanRequest(
        links=link_names(links),
        workers=workers,
        share=share,
        all_reduce_on_link=all_reduce_on_link,
        host_budget=host_budget,
        asked_without=without,
    )
    budget_bytes = parse_size_bytes("--budget", budget) if budget else grown.usable_bytes
    settings = SweepSettings(solver=solver, time_limit_s=time_limit, without=request.without)
    search = LimitsSearch(grown, request, budget_bytes, settings, processes or os.cpu_count() or 1)
    for path in (output, png):
        if path is not None:
            check_output(path)
    try:
        with progress_bars() as progress:
            search.run(points, progress)
    finally:
        # However it ended: what is finished may have taken minutes.
        _print_search(search, csv=output, png=png, as_json=as_json)


def _print_search(
    search: "LimitsSearch", *, csv: Path | None, png: Path | None, as_json: bool
) -> None:
    """Prints what was found, and writes it where it is wanted."""
    from planner.studies.limits import limits_table

    grown, rows = search.grown, search.rows
    if len(rows) < search.wanted:
        ended = f"Ended early: {len(rows)} of {search.wanted} plans are finished."
        print_line(ended, error=as_json)

    def figure(table: "pd.DataFrame") -> "Figure":
        from planner.report.sweep_plots import limits_figure

        title = f"{grown.title} on {grown.accelerator.product}, estimated"
        return limits_figure(table, title=title)

    # Files first: what reads the printed tables may stop reading.
    table = limits_table(rows, grown.about)
    written = write_plans(table, figure, csv, png) if rows else []
    if as_json:
        print_json(limits=search.limits, plans=table)
    else:
        _print_found(search)
    for path in written:
        wrote(path, error=as_json)


def _print_found(search: "LimitsSearch") -> None:
    for found in search.limits:
        _print_limits(search, found)
    if search.rows:
        _print_plans(search)
    elif search.limits and not search.wanted:
        print("There is nothing to plan: no setting fits with a plan that does not fit without.")


def _print_limits(search: "LimitsSearch", found: "Limits") -> None:
    grown, host = search.grown, found.host_budget_bytes
    on_host = "" if host is None else f" and {size_text(host)} of host memory for a worker"
    numbers = (grown.key, "peak with nothing moved", "of the budget")
    print_table(
        f"{grown.title} on {grown.accelerator.product} (estimated), within "
        f"{size_text(found.budget_bytes)}{on_host}",
        ("the largest that fits", *numbers),
        [
            ("without a plan", *_limit_cells(found.without, found)),
            ("with a plan", *_limit_cells(found.planned, found)),
        ],
        right=numbers,
    )
    if found.beyond is None:
        print(f"{grown.key}={grown.numbers[-1]} is the largest that was to be tried.")
        return
    print(
        f"{grown.key}={found.beyond.setting} needs {size_text_up(found.beyond.least_bytes)} "
        f"whatever moves: {found.beyond.wall}."
    )


def _limit_cells(largest: "Footprint | None", found: "Limits") -> tuple[str, str, str]:
    if largest is None:
        return "none", "", ""
    share = largest.peak_bytes / found.budget_bytes
    return str(largest.setting), size_text(largest.peak_bytes), f"{share:.0%}"


def _print_plans(search: "LimitsSearch") -> None:
    grown, rows = search.grown, search.rows
    figures = ("without", *FIGURES[1:])
    print_table(
        "Plans; without: the step with nothing moved, if it fitted (estimated); step, stall, bytes "
        "out and back per step and host pool of one worker: simulated; recompute: ops run again; "
        "bound: no plan is faster",
        (grown.key, "link", "workers", *figures),
        [_cells(row) for row in rows],
        right=(grown.key, "workers", *figures),
        keys=3,
    )
    print_marks([row.planned for row in rows], grown.profile(rows[-1].setting))


def _cells(row: "LimitsRow") -> tuple[str, ...]:
    planned = row.planned
    # The peak is the budget, or little less.
    figures = ("none",) if planned.step_us is None else figure_cells(planned)[1:]
    without = time_text(planned.compute_us)
    return (str(row.setting), planned.link, str(planned.workers), without, *figures)
