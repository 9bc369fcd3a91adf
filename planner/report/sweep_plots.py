"""The picture of a sweep: step time against budget, over what no plan can be below."""

import math
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from planner.report.plots import BLACK, MANY, AxisUnit, size_unit, time_unit
from profiles.schema.profile import Provenance

# Numbers of workers differ in marker and dash, too.
STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))
_FLOOR_ALPHA = 0.18


@dataclass(frozen=True)
class _Line:
    """How one link with one number of workers is drawn."""

    label: str
    colour: str
    marker: str
    dashes: str


def sweep_figure(table: pd.DataFrame, *, title: str, peak_bytes: int, times: Provenance) -> Figure:
    """Draws step time against budget, one line per link and number of workers.

    Args:
        table: From `planner.studies.sweep.sweep_table`, with one row at least.
        title: Above the picture.
        peak_bytes: Peak with nothing moved; budgets are shown as shares of it too.
        times: Whether the profile's times were measured or estimated.
    """
    size = size_unit(table["budget_bytes"].max())
    time = time_unit(table[["step_us", "compute_us"]].astype(float).max(axis=None))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for line, rows in _lines(table):
        _draw_line(axes, line, rows.sort_values("budget_bytes"), size, time)
    unmoved = f"nothing moved, in {peak_bytes / size.size:.2f} {size.name} ({times.value})"
    _draw_compute(axes, table["compute_us"].max() / time.size, unmoved)
    _draw_unmet(axes, table, size)
    axes.set(
        title=title,
        xlabel=f"budget, {size.name} of device memory (above: % of the peak with nothing moved)",
        ylabel=f"step time, {time.name}, simulated",
        ylim=(0, None),
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
    _draw_legend(figure, axes)
    return figure


def _lines(table: pd.DataFrame) -> list[tuple[_Line, pd.DataFrame]]:
    styles = dict(zip(table["workers"].unique(), cycle(STYLES), strict=False))
    lines = []
    groups = table.groupby(["link", "workers"], sort=False)
    for ((link, workers), rows), colour in zip(groups, cycle(MANY), strict=False):
        together = f", {workers} workers" if workers > 1 else ""
        alone = ", 1 worker" if len(styles) > 1 and workers == 1 else ""
        marker, dashes = styles[workers]
        lines.append((_Line(f"{link}{together}{alone}", colour, marker, dashes), rows))
    return lines


def _draw_line(axes: Axes, line: _Line, rows: pd.DataFrame, size: AxisUnit, time: AxisUnit) -> None:
    rows = rows.dropna(subset="step_us")
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
    axes.plot(
        budgets,
        rows["step_us"].astype(float) / time.size,
        color=line.colour,
        linestyle=line.dashes,
        marker=line.marker,
        markersize=5,
        linewidth=1.6,
        label=line.label,
    )


def _draw_compute(axes: Axes, compute: float, label: str) -> None:
    axes.axhspan(0, compute, color="grey", alpha=_FLOOR_ALPHA, linewidth=0)
    axes.axhline(compute, color="black", linestyle="--", linewidth=1, label=label)


def _draw_unmet(axes: Axes, table: pd.DataFrame, size: AxisUnit) -> None:
    unmet = table.dropna(subset="smallest_budget_bytes")
    if unmet.empty:
        return
    # Rounded up: what is asked for again must be enough.
    smallest = math.ceil(100 * unmet["smallest_budget_bytes"].min() / size.size) / 100
    axes.plot(
        unmet["budget_bytes"].astype(float) / size.size,
        [0.0] * len(unmet),
        color="black",
        marker="x",
        markersize=8,
        linestyle="none",
        clip_on=False,
        label="asked for, but no plan meets it",
    )
    axes.axvline(
        smallest,
        color="black",
        linestyle=":",
        linewidth=1.2,
        label=f"smallest budget that can be met: {smallest:.2f} {size.name}",
    )


def _draw_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    floor = Patch(color="grey", alpha=_FLOOR_ALPHA, linewidth=0)
    figure.legend(
        [*handles, floor],
        [*labels, "shaded below a thin line: no plan of that colour is there (bound)"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )


LIMIT_STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))


def limits_figure(table: pd.DataFrame, *, title: str) -> Figure:
    """Draws slowdown against the setting, one line per link and number of workers.

    Args:
        table: From `planner.studies.limits.limits_table`, with one row at least, all of one device.
        title: Above the picture.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    several = table["workers"].nunique() > 1
    lines = table.groupby(["link", "workers"], sort=False)
    for ((link, workers), rows), colour, style in zip(
        lines, cycle(MANY), cycle(LIMIT_STYLES), strict=False
    ):
        label = f"{link}, {workers} worker{'s' * (workers > 1)}" if several else str(link)
        _draw_limit(axes, rows.sort_values("setting"), label, colour, style)
    _draw_limits(axes, table)
    axes.set(
        title=title,
        xlabel=f"{table['grown'].iloc[0]} (setting of the workload)",
        ylabel="step slower than with nothing moved, %\n(simulated; bars: no plan is below)",
    )
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_limit(
    axes: Axes, rows: pd.DataFrame, label: str, colour: str, style: tuple[str, str]
) -> None:
    marker, dashes = style
    settings = rows["setting"].astype(float)
    slower = 100 * (rows["step_us"] / rows["compute_us"] - 1)
    bound = 100 * (rows["bound_step_us"] / rows["compute_us"] - 1)
    axes.plot(
        settings,
        slower,
        color=colour,
        marker=marker,
        linestyle=dashes,
        linewidth=1.6,
        label=label,
    )
    # A bound holds for its own setting, so nothing is drawn between two of them.
    axes.scatter(settings, bound, color=colour, marker="_", s=260, linewidth=1.6)


def _draw_limits(axes: Axes, table: pd.DataFrame) -> None:
    for column, dashes, what in (
        ("without_setting", "--", "largest without a plan"),
        ("planned_setting", ":", "largest with a plan"),
    ):
        limit = table[column].max()
        if pd.notna(limit):
            axes.axvline(
                float(limit), color=BLACK, linestyle=dashes, linewidth=1.2, label=f"{what}: {limit}"
            )
