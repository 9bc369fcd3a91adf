"""The picture of a growing step: how much slower plans make it, up to the largest that fits."""

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from planner.palette import BLACK, MANY

STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))


def limits_figure(table: pd.DataFrame, *, title: str) -> Figure:
    """Draws slowdown against the setting, one line per link and number of workers.

    Args:
        table: From `planner.limits.limits_table`, with one row at least, all of one device.
        title: Above the picture.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    several = table["workers"].nunique() > 1
    lines = table.groupby(["link", "workers"], sort=False)
    for ((link, workers), rows), colour, style in zip(
        lines, cycle(MANY), cycle(STYLES), strict=False
    ):
        label = f"{link}, {workers} worker{'s' * (workers > 1)}" if several else str(link)
        _draw_line(axes, rows.sort_values("setting"), label, colour, style)
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


def _draw_line(
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
