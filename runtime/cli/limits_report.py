"""The limits of a growing step as `plan limits` gives them: tables, a CSV file, a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.cost_report import ANOTHER_WAY
from planner.cli.output import print_table, wrote
from planner.cli.sweep_report import (
    UNSOLVED,
    UNSOLVED_MEANS,
    figure_cells,
    is_unsolved,
)
from planner.studies.limits import Footprint, Limits, LimitsRow, limits_table
from planner.studies.shared_link import exchanged_bytes
from profiles.schema.files import write_atomically
from profiles.schema.units import size_text, size_text_up, time_text

if TYPE_CHECKING:
    from runtime.cli.growing import Growing
    from runtime.cli.limits_search import LimitsSearch

NONE = "none"


def tell_limits(
    grown: "Growing", search: "LimitsSearch", *, csv: Path | None, png: Path | None
) -> None:
    """Prints what was found, and writes it where it is wanted.

    Args:
        grown: What grew.
        search: What was found, and how much is finished.
        csv: Where the table of plans goes, if anywhere.
        png: Where the picture goes, if anywhere.

    Raises:
        FileError: A file cannot be written.
    """
    if len(search.rows) < search.wanted:
        print(f"Ended early: {len(search.rows)} of {search.wanted} plans are finished.")
    # Files first: what reads the tables may stop reading.
    written = list(_write(grown, search.rows, csv, png))
    for limits in search.limits:
        _print_limits(grown, limits)
    if search.rows:
        _print_rows(grown, search.rows)
    elif search.limits and not search.wanted:
        print("There is nothing to plan: no setting fits with a plan that does not fit without.")
    for path in written:
        wrote(path)


def _write(
    grown: "Growing", rows: Sequence[LimitsRow], csv: Path | None, png: Path | None
) -> Iterator[Path]:
    table = limits_table(rows, grown.about)
    if csv is not None and rows:
        write_atomically(table.to_csv(index=False).encode(), csv)
        yield csv
    if png is not None and rows:
        from planner.report.plots import png_bytes
        from planner.report.sweep_plots import limits_figure

        title = f"{grown.title} on {grown.accelerator.product}, estimated"
        write_atomically(png_bytes(limits_figure(table, title=title)), png)
        yield png


def _print_limits(grown: "Growing", limits: Limits) -> None:
    host = limits.host_budget_bytes
    on_host = "" if host is None else f" and {size_text(host)} of host memory for a worker"
    numbers = (grown.key, "peak with nothing moved", "of the budget")
    print_table(
        f"{grown.title} on {grown.accelerator.product} (estimated), within "
        f"{size_text(limits.budget_bytes)}{on_host}",
        ("the largest that fits", *numbers),
        [
            ("without a plan", *_limit_cells(limits.without, limits)),
            ("with a plan", *_limit_cells(limits.planned, limits)),
        ],
        right=numbers,
    )
    if limits.beyond is None:
        print(f"{grown.key}={grown.numbers[-1]} is the largest that was to be tried.")
        return
    print(
        f"{grown.key}={limits.beyond.setting} needs {size_text_up(limits.beyond.least_bytes)} "
        f"whatever moves: {limits.beyond.wall}."
    )


def _limit_cells(found: Footprint | None, limits: Limits) -> tuple[str, str, str]:
    if found is None:
        return NONE, "", ""
    share = found.peak_bytes / limits.budget_bytes
    return str(found.setting), size_text(found.peak_bytes), f"{share:.0%}"


def _print_rows(grown: "Growing", rows: Sequence[LimitsRow]) -> None:
    figures = ("without", "step", "slower", "bound", "gap", "out", "back", "pool")
    print_table(
        "Plans; without: the step with nothing moved, if it fitted (estimated); step, bytes out "
        "and back per step and host pool of one worker: simulated; bound: no plan is faster",
        (grown.key, "link", "workers", *figures),
        [_cells(row) for row in rows],
        right=(grown.key, "workers", *figures),
    )
    if any(is_unsolved(row.planned) for row in rows):
        print(f"{UNSOLVED} {UNSOLVED_MEANS}")
    last = rows[-1]
    if any(row.planned.workers > 1 and not row.planned.all_reduce_on_link for row in rows):
        gradients_bytes = exchanged_bytes(grown.profile(last.setting))
        print(ANOTHER_WAY.format(size_text(gradients_bytes)))


def _cells(row: LimitsRow) -> tuple[str, ...]:
    planned = row.planned
    # The peak is the budget, or little less.
    figures = ("none",) if planned.step_us is None else figure_cells(planned)[1:]
    return (
        str(row.setting),
        planned.link,
        str(planned.workers),
        time_text(planned.compute_us),
        *figures,
    )
