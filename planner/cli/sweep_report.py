"""A sweep as `plan sweep` gives it: a table, a CSV file, a picture."""

from collections.abc import Sequence
from pathlib import Path

from planner.cli.cost_report import ANOTHER_WAY
from planner.cli.output import print_table, wrote
from planner.plan.plan import BoundSource
from planner.studies.shared_link import exchanged_bytes
from planner.studies.sweep import SweepOutcome, SweepRow, sweep_table
from profiles.schema.files import write_atomically
from profiles.schema.profile import Profile
from profiles.schema.units import size_text, size_text_up, time_text

NUMBERS = ("workers", "budget", "peak", "step", "slower", "bound", "gap", "out", "back", "pool")

UNSOLVED = "*"
"""Behind a bound that is nothing but the time of compute."""
UNSOLVED_MEANS = "the relaxation was not solved in time: only that nothing computes faster."


def tell_sweep(
    profile: Profile,
    name: str,
    rows: Sequence[SweepRow],
    asked: int,
    *,
    csv: Path | None,
    png: Path | None,
) -> None:
    """Prints the finished points of a sweep, and writes them where they are wanted.

    Args:
        profile: The step.
        name: What the user called it.
        rows: What is finished, in order.
        asked: How many points were asked for.
        csv: Where the table goes, if anywhere.
        png: Where the picture goes, if anywhere.

    Raises:
        FileError: A file cannot be written.
    """
    if len(rows) < asked:
        print(f"Ended early: {len(rows)} of {asked} plans are finished.")
    if not rows:
        return
    # Files first: what reads the table may stop reading.
    if csv is not None:
        write_atomically(sweep_table(rows).to_csv(index=False).encode(), csv)
    if png is not None:
        _draw(profile, name, rows, png)
    _print_rows(profile, rows)
    if any(is_unsolved(row) for row in rows):
        print(f"{UNSOLVED} {UNSOLVED_MEANS}")
    if any(row.workers > 1 and not row.all_reduce_on_link for row in rows):
        print(ANOTHER_WAY.format(size_text(exchanged_bytes(profile))))
    for path in (csv, png):
        if path is not None:
            wrote(path)


def _print_rows(profile: Profile, rows: Sequence[SweepRow]) -> None:
    print_table(
        f"Step with nothing moved: {time_text(profile.step_us)} ({profile.times.value}), "
        f"{size_text(_peak_bytes(profile))}; peak, step, bytes out and back per step and host pool "
        "of one worker: simulated; bound: no plan is faster",
        ("link", *NUMBERS, "outcome"),
        [_cells(row, _peak_bytes(profile)) for row in rows],
        right=NUMBERS,
    )


def _cells(row: SweepRow, peak_bytes: int) -> tuple[str, ...]:
    budget = f"{size_text(row.budget_bytes)} ({row.budget_bytes / peak_bytes:.0%})"
    asked = (row.link, str(row.workers), budget)
    if row.outcome is SweepOutcome.UNMET:
        assert row.smallest_budget_bytes is not None
        smallest = f"needs {size_text_up(row.smallest_budget_bytes)}"
        return (*asked, *[""] * (len(NUMBERS) - 2), smallest)
    return (*asked, *figure_cells(row), row.outcome.value)


def is_unsolved(row: SweepRow) -> bool:
    """Whether all that is known of a plan's bound is the time of compute."""
    return row.outcome is SweepOutcome.PLANNED and row.bound_source is BoundSource.TRIVIAL


def figure_cells(row: SweepRow) -> tuple[str, ...]:
    """Returns peak, step, slowdown, bound, gap, bytes out and back, and host pool of a plan."""
    assert row.step_us is not None
    assert row.bound_step_us is not None
    slower = row.step_us / row.compute_us - 1 if row.compute_us else 0.0
    bytes_of = (row.d2h_bytes, row.h2d_bytes, row.host_pool_bytes)
    return (
        size_text(row.peak_bytes or 0),
        time_text(row.step_us),
        f"{slower:.1%}",
        time_text(row.bound_step_us) + (UNSOLVED if is_unsolved(row) else ""),
        f"{row.gap:.2%}",
        *(size_text(size_bytes or 0) for size_bytes in bytes_of),
    )


def _peak_bytes(profile: Profile) -> int:
    return profile.peak_bytes


def _draw(profile: Profile, name: str, rows: Sequence[SweepRow], png: Path) -> None:
    from planner.report.plots import png_bytes
    from planner.report.sweep_plots import sweep_figure

    figure = sweep_figure(
        sweep_table(rows),
        title=f"Step time against budget: {name}",
        peak_bytes=_peak_bytes(profile),
        times=profile.times,
    )
    write_atomically(png_bytes(figure), png)
