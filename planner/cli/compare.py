"""`plan compare`: our plan beside published ways to plan swaps, in one simulator."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import options
from planner.cli.json_output import print_json
from planner.cli.output import (
    Column,
    RowsAsDone,
    print_line,
    print_rows,
    progress_bars,
    wrote,
)
from planner.cli.output_file import check_output
from planner.cli.request import PlanRequest
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary, Without
from profiles.library.index import profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.files import write_atomically
from profiles.schema.profile_file import read_profile
from profiles.schema.units import rate_text, size_text, time_text

if TYPE_CHECKING:
    from planner.heuristics.task import Task
    from planner.plan.plan import Plan
    from planner.studies.rows import NotApplicable, Published, Row

NONE = "-"


def compare(
    profile: options.ProfileFile,
    budget: options.Budget,
    link: options.LinkName = None,
    d2h_bandwidth: options.D2hBandwidth = None,
    h2d_bandwidth: options.H2dBandwidth = None,
    solver: options.SolverChoice = SolverName.HIGHS,
    time_limit: options.TimeLimit = 60.0,
    min_size: options.MinSize = None,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief",
            help="Leave out what takes longest: the smallest budgets, and each selection with our "
            "timing.",
        ),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there, too.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Sets our plans beside published baselines: their selections, their timing, one simulator.

    Rows are printed as they are done, what they take of memory at the end. Each of our three plans
    takes at most half of --time-limit.
    """
    from planner.heuristics.task import task_of
    from planner.studies.rows import NotApplicable

    request = PlanRequest(
        budget=budget,
        links=(link,),
        d2h_bandwidth=d2h_bandwidth,
        h2d_bandwidth=h2d_bandwidth,
        min_size=min_size,
    )
    recorded = read_profile(profile_path(profile))
    (chosen,) = request.links_of(recorded)
    task = task_of(recorded, request.budget_bytes(recorded), chosen, request.min_size_bytes)
    if csv is not None:
        check_output(csv, keep=profile)
    table = RowsAsDone(_title(task), COLUMNS, first_width=FIRST_WIDTH)
    rows: list[Row | NotApplicable] = []
    for row in _rows(task, solver=solver, time_limit=time_limit, is_full=not brief):
        if not as_json and isinstance(row, NotApplicable):
            print_line(f"{row.name}\n  n/a: {row.note}")
        elif not as_json:
            table.add(row)
        rows.append(row)
    if as_json or csv is not None:
        _hand_over(rows, csv, as_json)
    if not as_json:
        planned = [row for row in rows if not isinstance(row, NotApplicable)]
        print_rows("Memory, and the same selections with our timing", planned, *MEMORY_COLUMNS)
        _print_about()
        _print_sources()


def _hand_over(rows: "list[Row | NotApplicable]", csv: Path | None, as_json: bool) -> None:
    from planner.studies.compare import comparison_table

    table = comparison_table(rows)
    if csv is not None:
        write_atomically(table.to_csv().encode(), csv)
        wrote(csv, error=as_json)
    if as_json:
        print_json(rows=table)


def _rows(
    task: "Task", *, solver: SolverName, time_limit: float, is_full: bool
) -> "Iterator[Row | NotApplicable]":
    """Ours first, then our selection with other timings, then every baseline, each when it is done.

    Three plans of ours are made, so each has half of the time.
    """
    with progress_bars() as progress:
        progress("loading the solver", 0, 1)
        from planner.studies import compare as study
        from planner.studies import rows

    def ours(asked: "Task", without: Without) -> "Plan":
        with progress_bars() as progress:
            return study.our_plan(
                asked,
                solver=solver,
                time_limit_s=time_limit / 2,
                without=without,
                progress=progress,
            )

    swaps, unmet = None, None
    try:
        swaps = ours(task, Without.RECOMPUTE)
    except BudgetError as error:
        unmet = error
    else:
        yield study.our_row(swaps, study.our_smallest_budget_bytes(task) if is_full else None)
    try:
        both = ours(task, Without.NOTHING)
    except BudgetError as error:
        raise unmet or error from None
    yield study.our_row(both, name=study.OURS_RECOMPUTE)
    if swaps is not None and swaps.swaps and is_full:
        # By their own rule these meet no other budget: they move what our plan for this one moves.
        bound_us = swaps.certificate.bound_beyond_us
        otherwise = study.our_selection_otherwise_timed(swaps)
        yield from study.Comparison(task, bound_us, is_full=False).rows(otherwise)
    peak_bytes = None
    for row in _baselines(task, swaps, both, is_full=is_full):
        yield row
        if row.name == study.CHECKPOINTING and row.recompute_us > 0:
            peak_bytes = row.peak_bytes
    yield from rows.reference_rows(task, clock=rows.Clock(REFERENCES_S))
    if peak_bytes is not None:
        try:
            at_peak = ours(task.with_budget(peak_bytes), Without.NOTHING)
        except BudgetError as error:
            print_line(f"{study.OURS_AT_CHECKPOINTING}: {error}", error=True)
        else:
            yield study.our_row(at_peak, name=study.OURS_AT_CHECKPOINTING)


def _baselines(
    task: "Task", swaps: "Plan | None", both: "Plan", *, is_full: bool
) -> "Iterator[Row]":
    from planner.studies import compare as study
    from planner.studies import rows

    bound_us = 0.0 if swaps is None else swaps.certificate.bound_beyond_us
    clock = rows.Clock(BASELINES_S)
    yield from study.Comparison(task, bound_us, is_full).rows(study.HEURISTICS, clock)
    clock = rows.Clock(BASELINES_S)
    yield from rows.recomputing_rows(task, both.certificate.bound_beyond_us, clock=clock)


def _or_none(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda figure: NONE if figure is None else text(figure)


COLUMNS: tuple[Column, ...] = (
    ("", "name"),
    ("fits", lambda row: "yes" if row.fits else "no"),
    ("step", "step_us", time_text),
    ("recompute", "recompute_us", time_text),
    ("stall", "stall_us", time_text),
    ("over bound", "gap", _or_none("{:.1%}".format)),
)
MEMORY_COLUMNS: tuple[Column, ...] = (
    ("", "name"),
    ("out per step", "moved_bytes", size_text),
    ("peak", "peak_bytes", size_text),
    ("smallest budget", "smallest_budget_bytes", _or_none(size_text)),
    ("our timing", "retimed_stall_us", _or_none(time_text)),
    ("note", "note"),
)
FIRST_WIDTH = 28
"""A longer name has a line of its own."""
BASELINES_S = 30.0
"""Seconds for all that swap together, and for all that also run ops again; those that are stopped
say so."""
REFERENCES_S = 10.0
"""And for what is no plan."""


def _title(task: "Task") -> str:
    problem = task.problem
    return (
        f"A step of {time_text(problem.compute_us)} ({task.step.profile.times.value}) within "
        f"{size_text(problem.budget_bytes)} of {size_text(max(problem.resident_bytes))}; link "
        f"{problem.link.name}, {rate_text(problem.link.d2h_bytes_per_us)} out, "
        f"{rate_text(problem.link.h2d_bytes_per_us)} in ({problem.link.provenance.value}).\n"
        "All figures are simulated, each row with its own selection and timing."
    )


def _print_about() -> None:
    print(
        "over bound: time beyond the bound, as a share of the best step that the bound allows; "
        "rows that recompute are held against the bound on plans that may, with the recipes ours "
        "are offered. our timing: stall of the row's selection with our scheduler; '-' if its "
        "selection cannot meet the budget. smallest budget: by the row's own rule, to 0.1% of the "
        "peak. swapplan's gaps: what our plan moves, with simple timing instead of ours. "
        "Checkpointing takes no budget: its peak is its own, and the last row is our plan for that "
        "peak. stopped: there was no time for all that the row's rule tries. reference: no plan of "
        "ours can be it, as it decides while the step runs, or has the optimizer run on the host; "
        "estimated, and held against no bound."
    )


def _print_sources() -> None:
    from planner.heuristics.recomputing.catalog import RECOMPUTING
    from planner.studies.compare import PUBLISHED
    from planner.studies.rows import REFERENCES

    rules: tuple[Published, ...] = (*PUBLISHED, *RECOMPUTING, *REFERENCES)
    print("\nWhere each rule is from, how it is known, and what is stated more simply here:")
    for one in rules:
        about = f"{one.name}: {one.source}; {one.known_from.value}"
        print(f"- {about}. {one.simplified[0].upper()}{one.simplified[1:]}.")
    wrapping = [one.name for one in PUBLISHED if one.boundary is Boundary.PERIODIC]
    print(
        f"Swaps of {', '.join(wrapping)} and of the controls may wrap round the step boundary, as "
        "ours may; the other baselines move activations alone, or stay within the step. Controls: "
        "what they move leaves when it is idle and is fetched one layer ahead."
    )
