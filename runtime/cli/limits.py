"""`plan limits`: how far a step can grow on a device, without and with a plan."""

import os
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.options import (
    AllReduceOnLink,
    HostBudget,
    Seed,
    Settings,
    Share,
    SolverChoice,
    TimeLimit,
    Workload,
    parse_settings,
)
from planner.cli.output import progress_bars
from planner.cli.sweep import CsvFile, LinkNames, Processes, WorkerCounts
from planner.ilp.deadline import SolverName
from profiles.schema.units import parse_size_bytes


def limits(
    workload: Workload,
    grow: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help="The setting that grows, a whole number, such as size, resolution or batch.",
        ),
    ],
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="The accelerator to estimate for, such as v100-16gb or h200.",
        ),
    ],
    setting: Settings = None,
    seed: Seed = 0,
    multiple_of: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Try multiples of N only; by default what a built-in workload takes, else 1.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Device bytes to stay within; by default the device's memory less 1 GiB, taken "
            "to be what CUDA and fragments use.",
        ),
    ] = None,
    links: LinkNames = None,
    workers: WorkerCounts = "1",
    share: Share = None,
    all_reduce_on_link: AllReduceOnLink = False,
    host_budget: HostBudget = None,
    points: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Plan N settings that only a plan can train, the largest one among them.",
        ),
    ] = 1,
    solver: SolverChoice = SolverName.HIGHS,
    time_limit: TimeLimit = 60.0,
    processes: Processes = None,
    output: CsvFile = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw slowdown against the setting into this PNG."),
    ] = None,
) -> None:
    """Finds the largest setting that a device can train, without and with a plan, and how slow.

    Nothing is run: steps are estimated. Interrupted, it still gives what is finished.
    """
    from planner.cli.sweep_choices import parse_link_choices
    from planner.studies.sweep import SweepSettings
    from profiles.schema.files import check_writable
    from runtime.cli.growing import choose_growing
    from runtime.cli.limits_report import tell_limits
    from runtime.cli.limits_search import LimitsSearch

    grown = choose_growing(
        workload,
        key=grow,
        device=device,
        settings=parse_settings(setting),
        seed=seed,
        multiple_of=multiple_of,
    )
    search = LimitsSearch(
        grown,
        lambda profile: parse_link_choices(
            profile,
            links=links,
            workers=workers,
            share=share,
            all_reduce_on_link=all_reduce_on_link,
            host_budget=host_budget,
        ),
        parse_size_bytes("--budget", budget) if budget else grown.usable_bytes,
        SweepSettings(solver=solver, time_limit_s=time_limit),
    )
    for path in (output, png):
        if path is not None:
            check_writable(path)
    try:
        with progress_bars() as progress:
            search.run(points=points, processes=processes or os.cpu_count() or 1, progress=progress)
    finally:
        # However it ended: what is finished may have taken minutes.
        tell_limits(grown, search, csv=output, png=png)
