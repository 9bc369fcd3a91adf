"""The picture of a sweep: step time against budget, over what no plan can be below."""

import math
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from planner.axis_unit import AxisUnit, size_unit, time_unit
from planner.palette import MANY
from profiles.profile import Provenance

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
        table: From `planner.sweep.sweep_table`, with one row at least.
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
