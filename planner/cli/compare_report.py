"""A comparison as `plan compare` gives it: a table, where its rules are from, a CSV file."""

from collections.abc import Sequence
from pathlib import Path

from planner.cli.output import print_table
from planner.heuristics.task import Task
from planner.plan.plan import Boundary
from planner.studies.checkpointing import full_checkpointing
from planner.studies.compare import PUBLISHED, Row, comparison_table
from profiles.schema.files import write_atomically
from profiles.schema.units import rate_text, size_text, time_text

NUMBERS = ("step", "stall", "out per step", "peak", "smallest budget", "over bound", "our timing")
NONE = "-"


def print_comparison(task: Task, rows: Sequence[Row]) -> None:
    """Prints the table, the cost of checkpointing, and what the table rests on."""
    problem = task.problem
    print_table(
        f"A step of {time_text(problem.compute_us)} ({task.step.profile.times.value}) within "
        f"{size_text(problem.budget_bytes)} of {size_text(max(problem.resident_bytes))}; link "
        f"{problem.link.name}, {rate_text(problem.link.d2h_bytes_per_us)} out, "
        f"{rate_text(problem.link.h2d_bytes_per_us)} in ({problem.link.provenance.value}).\n"
        "All figures are simulated, each row with its own selection and timing.",
        ("", "fits", *NUMBERS),
        [_cells(row) for row in rows],
        right=NUMBERS,
    )
    print(
        "over bound: stall beyond the bound, as a share of the best step that the bound allows. "
        "our timing: stall of the row's selection with our scheduler; '-' if its selection cannot "
        "meet the budget. smallest budget: by the row's own rule, to 0.1% of the peak. swapplan's "
        "gaps: what our plan moves, with simple timing instead of ours."
    )
    _print_checkpointing(task)
    _print_sources()


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes the table as a CSV file.

    Raises:
        FileError: The path cannot be written.
    """
    write_atomically(comparison_table(rows).to_csv().encode(), path)


def _cells(row: Row) -> tuple[str, ...]:
    smallest, retimed = row.smallest_budget_bytes, row.retimed_stall_us
    return (
        row.name,
        "yes" if row.fits else "no",
        time_text(row.step_us),
        time_text(row.stall_us),
        size_text(row.moved_bytes),
        size_text(row.peak_bytes),
        NONE if smallest is None else size_text(smallest),
        NONE if row.optimality_gap is None else f"{100 * row.optimality_gap:.1f}%",
        NONE if retimed is None else time_text(retimed),
    )


def _print_checkpointing(task: Task) -> None:
    cost, problem = full_checkpointing(task), task.problem
    fits = "fits" if cost.peak_bytes <= problem.budget_bytes else "does not fit"
    print(
        f"Full activation checkpointing instead, which moves nothing: {cost.blocks} blocks, step "
        f"{time_text(problem.compute_us + cost.recompute_us)}, of which "
        f"{time_text(cost.recompute_us)} recompute; peak {size_text(cost.peak_bytes)}, {fits} "
        "(estimated from the profile)."
    )


def _print_sources() -> None:
    print("\nWhere each rule is from, how it is known, and what is stated more simply here:")
    for one in PUBLISHED:
        about = f"{one.name}: {one.source}; {one.known_from.value}"
        print(f"- {about}. {one.simplified[0].upper()}{one.simplified[1:]}.")
    wrapping = [one.name for one in PUBLISHED if one.boundary is Boundary.PERIODIC]
    print(
        f"Trips of {', '.join(wrapping)} and of the controls may wrap round the step boundary, as "
        "ours may; the other baselines move activations alone, or stay within the step. None of "
        "them drops a storage without a copy. Rows below the published ones are controls: what "
        "they move leaves when it is idle and is fetched one layer ahead."
    )
