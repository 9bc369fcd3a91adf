"""Pictures of many plans: step time against budget, and slowdown against a setting."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from planner.report.plots import BLACK, MANY, STYLES, AxisUnit, size_unit, time_unit
from profiles.schema.profile import Provenance

_FLOOR_ALPHA = 0.18


class _Line(NamedTuple):
    """How one link with one number of workers is drawn, and its rows."""

    label: str
    colour: str
    marker: str
    dashes: str
    rows: pd.DataFrame


def sweep_figure(table: pd.DataFrame, *, title: str, peak_bytes: int, times: Provenance) -> Figure:
    """Draws step time against budget, also as a share of the peak with nothing moved, one line per
    link and number of workers, from `planner.studies.sweep.sweep_table` with one row at least."""
    size = size_unit(table["budget_bytes"].max())
    time = time_unit(table[["step_us", "compute_us"]].astype(float).max(axis=None))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for line in _lines(table, "budget_bytes", by_workers=True):
        _draw_sweep(axes, line, size, time)
    compute = table["compute_us"].max() / time.size
    # From just below what no plan can be below: from 0, lines and floors would lie on one another.
    highest = max(1.1 * compute, axes.get_ylim()[1] if table["step_us"].notna().any() else 0)
    lowest = compute - 0.15 * (highest - compute)
    unmoved = f"nothing moved, in {peak_bytes / size.size:.2f} {size.name} ({times.value})"
    axes.axhspan(lowest, compute, color="grey", alpha=_FLOOR_ALPHA, linewidth=0)
    axes.axhline(compute, color="black", linestyle="--", linewidth=1, label=unmoved)
    _draw_unmet(axes, table, size)
    axes.set(
        title=title,
        xlabel=f"budget, {size.name} of device memory (above: % of the peak with nothing moved)",
        ylabel=f"step time, {time.name}, simulated (not from 0)",
        ylim=(lowest, highest),
    )
    percent = peak_bytes / size.size / 100
    axes.secondary_xaxis(
        "top",
        functions=(
            lambda budget: np.divide(budget, percent),
            lambda share: np.multiply(share, percent),
        ),
    )
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Patch(color="grey", alpha=_FLOOR_ALPHA, linewidth=0))
    labels.append("shaded below a thin line: no plan of that colour is there (bound)")
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def limits_figure(table: pd.DataFrame, *, title: str) -> Figure:
    """Draws slowdown against the setting, one line per link and number of workers, from
    `planner.studies.limits.limits_table` with one row at least, all of one device."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for line in _lines(table, "setting", by_workers=False):
        _draw_limits(axes, line)
    for column, dashes, what in (
        ("without_setting", "--", "largest without a plan"),
        ("planned_setting", ":", "largest with a plan"),
    ):
        limit = table[column].max()
        if pd.notna(limit):
            label = f"{what}: {limit}"
            axes.axvline(float(limit), color=BLACK, linestyle=dashes, linewidth=1.2, label=label)
    axes.set(
        title=title,
        xlabel=f"{table['grown'].iloc[0]} (setting of the workload)",
        ylabel="step slower than with nothing moved, %\n(simulated; bars: no plan is below)",
    )
    highest = max(1.0, axes.get_ylim()[1])
    axes.set_ylim(-0.03 * highest, highest)  # so a mark at 0 is seen whole
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _lines(table: pd.DataFrame, x: str, *, by_workers: bool) -> Iterator[_Line]:
    """A line per link and number of workers; markers and dashes differ too, by workers or all."""
    counts = list(table["workers"].unique())
    groups = table.groupby(["link", "workers"], sort=False)
    for number, ((link, workers), rows) in enumerate(groups):
        marker, dashes = STYLES[(counts.index(workers) if by_workers else number) % len(STYLES)]
        is_named = len(counts) > 1 or (by_workers and workers > 1)
        label = f"{link}, {workers} worker{'s' * (workers > 1)}" if is_named else str(link)
        yield _Line(label, MANY[number % len(MANY)], marker, dashes, rows.sort_values(x))


def _draw_sweep(axes: Axes, line: _Line, size: AxisUnit, time: AxisUnit) -> None:
    rows = line.rows.dropna(subset="step_us")
    budgets = rows["budget_bytes"].astype(float) / size.size
    bound = rows["bound_step_us"].astype(float) / time.size
    # A bound only falls as the budget grows, so each one holds down to the next smaller budget.
    axes.fill_between(
        budgets,
        rows["compute_us"] / time.size,
        bound,
        step="pre",
        facecolor=line.colour,
        alpha=_FLOOR_ALPHA,
        linewidth=0,
    )
    axes.step(budgets, bound, where="pre", color=line.colour, linewidth=0.7)
    _plot(axes, line, budgets, rows["step_us"].astype(float) / time.size, markersize=5)


def _draw_limits(axes: Axes, line: _Line) -> None:
    rows = line.rows
    settings = rows["setting"].astype(float)
    slower = 100 * (rows["step_us"] / rows["compute_us"] - 1)
    bound = 100 * (rows["bound_step_us"] / rows["compute_us"] - 1)
    _plot(axes, line, settings, slower)
    # A bound holds for its own setting, so nothing is drawn between two of them.
    axes.scatter(settings, bound, color=line.colour, marker="_", s=260, linewidth=1.6)


def _plot(
    axes: Axes, line: _Line, x: pd.Series, y: pd.Series, markersize: float | None = None
) -> None:
    axes.plot(
        x,
        y,
        color=line.colour,
        linestyle=line.dashes,
        marker=line.marker,
        markersize=markersize,
        linewidth=1.6,
        label=line.label,
    )


def _draw_unmet(axes: Axes, table: pd.DataFrame, size: AxisUnit) -> None:
    unmet = table.dropna(subset="smallest_budget_bytes")
    if unmet.empty:
        return
    # Rounded up: what is asked for again must be enough.
    smallest = math.ceil(100 * unmet["smallest_budget_bytes"].min() / size.size) / 100
    axes.plot(
        unmet["budget_bytes"].astype(float) / size.size,
        [0.0] * len(unmet),
        transform=axes.get_xaxis_transform(),
        color="black",
        marker="x",
        markersize=8,
        linestyle="none",
        clip_on=False,
        label="asked for, but no plan meets it",
    )
    label = f"smallest budget that can be met: {smallest:.2f} {size.name}"
    axes.axvline(smallest, color="black", linestyle=":", linewidth=1.2, label=label)
