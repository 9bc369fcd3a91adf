"""`plan compare`: our plan beside published ways to plan swaps, in one simulator."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import options
from planner.cli.output import print_rows, progress_bars, wrote
from planner.cli.request import PlanRequest
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary
from profiles.library.index import profile_path
from profiles.schema.files import check_writable, write_atomically
from profiles.schema.profile_file import read_profile
from profiles.schema.units import rate_text, size_text, time_text

if TYPE_CHECKING:
    from planner.heuristics.task import Task
    from planner.studies.compare import Row

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
) -> None:
    """Sets our plan beside published baselines: their selections, their timing, one simulator."""
    from planner.heuristics.task import task_of

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
        check_writable(csv, keep=profile)
    rows = _rows(task, solver=solver, time_limit=time_limit, is_full=not brief)
    _print_comparison(task, rows)
    if csv is not None:
        from planner.studies.compare import comparison_table

        write_atomically(comparison_table(rows).to_csv().encode(), csv)
        wrote(csv)


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
        bound_us = plan.certificate.bound_beyond_us
        otherwise = our_selection_otherwise_timed(plan) if plan.swaps and is_full else ()
        # By their own rule these meet no other budget: they move what our plan for this one moves.
        timed = Comparison(task, bound_us, is_full=False).rows(otherwise)
        rest = Comparison(task, bound_us, is_full).rows(HEURISTICS, progress)
        return (ours, *timed, *rest)


def _print_comparison(task: "Task", rows: "Sequence[Row]") -> None:
    """Prints the table, the cost of checkpointing, and what the table rests on."""
    problem = task.problem
    print_rows(
        f"A step of {time_text(problem.compute_us)} ({task.step.profile.times.value}) within "
        f"{size_text(problem.budget_bytes)} of {size_text(max(problem.resident_bytes))}; link "
        f"{problem.link.name}, {rate_text(problem.link.d2h_bytes_per_us)} out, "
        f"{rate_text(problem.link.h2d_bytes_per_us)} in ({problem.link.provenance.value}).\n"
        "All figures are simulated, each row with its own selection and timing.",
        rows,
        ("", "name"),
        ("fits", lambda row: "yes" if row.fits else "no"),
        ("step", "step_us", time_text),
        ("stall", "stall_us", time_text),
        ("out per step", "moved_bytes", size_text),
        ("peak", "peak_bytes", size_text),
        ("smallest budget", "smallest_budget_bytes", _or_none(size_text)),
        ("over bound", "gap", _or_none("{:.1%}".format)),
        ("our timing", "retimed_stall_us", _or_none(time_text)),
    )
    print(
        "over bound: stall beyond the bound, as a share of the best step that the bound allows. "
        "our timing: stall of the row's selection with our scheduler; '-' if its selection cannot "
        "meet the budget. smallest budget: by the row's own rule, to 0.1% of the peak. swapplan's "
        "gaps: what our plan moves, with simple timing instead of ours."
    )
    _print_checkpointing(task)
    _print_sources()


def _or_none(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda figure: NONE if figure is None else text(figure)


def _print_checkpointing(task: "Task") -> None:
    from planner.studies.checkpointing import full_checkpointing

    cost, problem = full_checkpointing(task), task.problem
    fits = "fits" if cost.peak_bytes <= problem.budget_bytes else "does not fit"
    print(
        f"Full activation checkpointing instead, which moves nothing: {cost.blocks} blocks, step "
        f"{time_text(problem.compute_us + cost.recompute_us)}, of which "
        f"{time_text(cost.recompute_us)} recompute; peak {size_text(cost.peak_bytes)}, {fits} "
        "(estimated from the profile)."
    )


def _print_sources() -> None:
    from planner.studies.compare import PUBLISHED

    print("\nWhere each rule is from, how it is known, and what is stated more simply here:")
    for one in PUBLISHED:
        about = f"{one.name}: {one.source}; {one.known_from.value}"
        print(f"- {about}. {one.simplified[0].upper()}{one.simplified[1:]}.")
    wrapping = [one.name for one in PUBLISHED if one.boundary is Boundary.PERIODIC]
    print(
        f"Swaps of {', '.join(wrapping)} and of the controls may wrap round the step boundary, as "
        "ours may; the other baselines move activations alone, or stay within the step. None of "
        "them drops a storage without a copy. Rows below the published ones are controls: what "
        "they move leaves when it is idle and is fetched one layer ahead."
    )
