"""Pictures of the experiments."""

from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure

from planner.report.plots import BLACK, MANY, STYLES

TIMES_SLOWER = (1, 1.2, 1.5, 2, 3, 4, 6, 8)


def machines_figure(limits: pd.DataFrame, *, title: str) -> Figure:
    """Draws slowdown against how much more than the budget a step needs, a line per machine.

    Args:
        limits: From `paper.tables.limits_found`, of one question and of one worker.
        title: Above the picture.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    lines = limits.groupby(["device", "link"], sort=False)
    for ((device, link), rows), colour, (marker, dashes) in zip(
        lines, cycle((*MANY, BLACK)), cycle(STYLES), strict=False
    ):
        rows = rows.sort_values("oversubscribed")
        axes.plot(
            rows["oversubscribed"],
            1 + rows["slower"],
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=1.6,
            label=f"{device}, {link}",
        )
    axes.set(
        title=title,
        xlabel="memory of the step with nothing moved, over what the device has for it (estimated)",
        ylabel="step with the plan over step with\nnothing moved (simulated; log scale)",
        xlim=(1, None),
        yscale="log",
    )
    axes.set_yticks(TIMES_SLOWER, [f"{times:g}x" for times in TIMES_SLOWER], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def workers_figure(limits: pd.DataFrame, *, title: str) -> Figure:
    """Draws how much several workers train in the time of one with nothing moved.

    Args:
        limits: From `paper.tables.limits_found`, of one setting.
        title: Above the picture.
    """
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots()
    most = int(limits["workers"].max())
    axes.plot(
        [1, most],
        [1, most],
        color=BLACK,
        linestyle="--",
        linewidth=1,
        label="as with nothing moved",
    )
    lines = limits.groupby("link", sort=False)
    for (link, rows), colour, (marker, dashes) in zip(
        lines, cycle(MANY), cycle(STYLES), strict=False
    ):
        rows = rows.sort_values("workers")
        axes.plot(
            rows["workers"],
            rows["workers"] / (1 + rows["slower"]),
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=1.6,
            label=str(link),
        )
    axes.set(
        title=title,
        xlabel="workers of one host",
        ylabel="steps of all workers in the time of\none step with nothing moved (simulated)",
        xticks=sorted(limits["workers"].unique()),
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
