"""`plan compare`: our plan beside published ways to plan swaps, in one simulator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.options import (
    D2hBandwidth,
    H2dBandwidth,
    LinkName,
    MinSize,
    ProfileFile,
    SolverChoice,
    TimeLimit,
)
from planner.cli.output import progress_bars, wrote
from planner.ilp.deadline import SolverName
from profiles.schema.units import parse_budget_bytes, parse_size_bytes

if TYPE_CHECKING:
    from planner.heuristics.task import Task
    from planner.studies.compare import Row
    from profiles.schema.profile import Link, Profile


Budget = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        show_default=False,
        help="Device bytes to stay within: 8GiB, 512MB, or 60% (of the no-plan peak).",
    ),
]
Brief = Annotated[
    bool,
    typer.Option(
        "--brief",
        help="Leave out what takes longest: the smallest budgets, and each selection with our "
        "timing.",
    ),
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there, too.")
]


def compare(
    profile: ProfileFile,
    budget: Budget,
    link: LinkName = None,
    d2h_bandwidth: D2hBandwidth = None,
    h2d_bandwidth: H2dBandwidth = None,
    solver: SolverChoice = SolverName.HIGHS,
    time_limit: TimeLimit = 60.0,
    min_size: MinSize = None,
    brief: Brief = False,
    csv: CsvFile = None,
) -> None:
    """Sets our plan beside published baselines: their selections, their timing, one simulator."""
    from planner.cli.compare_report import print_comparison, write_csv
    from planner.cli.link import choose_link
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable
    from profiles.schema.profile_file import read_profile

    recorded = read_profile(profile_path(profile))
    chosen = choose_link(recorded.link, link, d2h_bandwidth, h2d_bandwidth)
    task = _task(recorded, budget, chosen, min_size)
    if csv is not None:
        check_writable(csv, keep=profile)
    rows = _rows(task, solver=solver, time_limit=time_limit, is_full=not brief)
    print_comparison(task, rows)
    if csv is not None:
        write_csv(rows, csv)
        wrote(csv)


def _task(profile: "Profile", budget: str, link: "Link", min_size: str | None) -> "Task":
    from planner.heuristics.task import task_of

    peak_bytes = profile.peak_bytes
    budget_bytes = parse_budget_bytes("--budget", budget, peak_bytes)
    min_bytes = parse_size_bytes("--min-size", min_size) if min_size else None
    return task_of(profile, budget_bytes, link, min_bytes)


def _rows(
    task: "Task", *, solver: SolverName, time_limit: float, is_full: bool
) -> "tuple[Row, ...]":
    """Ours first, then our selection with other timings, then every heuristic."""
    with progress_bars() as progress:
        progress("loading the solver", 0, 1)
        from planner.studies.compare import (
            HEURISTICS,
            Comparison,
            our_plan,
            our_row,
            our_selection_otherwise_timed,
            our_smallest_budget_bytes,
        )

        plan = our_plan(task, solver=solver, time_limit_s=time_limit, progress=progress)
        ours = our_row(plan, our_smallest_budget_bytes(task) if is_full else None)
        bound_us = plan.certificate.bound_stall_us
        otherwise = our_selection_otherwise_timed(plan) if plan.swaps and is_full else ()
        # By their own rule these meet no other budget: they move what our plan for this one moves.
        timed = Comparison(task, bound_us, is_full=False).rows(otherwise)
        rest = Comparison(task, bound_us, is_full).rows(HEURISTICS, progress)
        return (ours, *timed, *rest)
