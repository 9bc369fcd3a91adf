"""Pictures of a plan: swaps, slack, how busy the link is."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from planner.report.lanes import LaneName
from planner.report.plots import (
    BLACK,
    D2H,
    GREY,
    H2D,
    ROW_IN,
    STALL,
    WIDTH_IN,
    AxisUnit,
    size_unit,
    time_unit,
)
from planner.report.step_plot import LANES


def swaps_figure(swap_times: pd.DataFrame, *, title: str, step_us: float) -> Figure:
    """Draws swaps, one row each: the copy out, the time away, the copy back, the next use.

    Args:
        swap_times: Rows of `analysis.plan_tables.swap_times_table`, from top to bottom.
        title: Above the picture.
        step_us: The simulated step; what goes beyond it is drawn at its begin.
    """
    time = time_unit(step_us)
    figure = Figure(figsize=(WIDTH_IN, 1.7 + ROW_IN * len(swap_times)), layout="constrained")
    axes = figure.subplots()
    for row, swap in enumerate(swap_times.itertuples()):
        _draw_span(axes, row, (swap.released_us, swap.allocated_us), step_us, time, GREY, 0.15)
        if not swap.clean:
            _draw_span(axes, row, (swap.out_start_us, swap.out_end_us), step_us, time, D2H, 0.7)
        _draw_span(axes, row, (swap.in_start_us, swap.in_end_us), step_us, time, H2D, 0.7)
        used_us = swap.used_us - step_us if swap.used_us > step_us else swap.used_us
        used = used_us / time.size
        axes.plot([used, used], [row - 0.35, row + 0.35], color=BLACK, linewidth=2)
    size = size_unit(swap_times["size_bytes"].max())
    labels = [
        f"{swap.name}  {swap.module}  {swap.size_bytes / size.size:.2f} {size.name}"
        for swap in swap_times.itertuples()
    ]
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.set(
        title=title,
        xlabel=f"time in the step, {time.name} (simulated)",
        xlim=(0, step_us / time.size),
    )
    figure.legend(handles=_swap_handles(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def slack_figure(swaps: pd.DataFrame, *, title: str) -> Figure:
    """Draws how long before compute asks for it each copy is over, the latest copies first.

    Args:
        swaps: From `planner.report.tables.swaps_table`; one row at least.
        title: Above the picture.
    """
    columns = {"out_slack_us": ("o", D2H, "to the host"), "in_slack_us": ("^", H2D, "back")}
    time = time_unit(swaps[list(columns)].abs().max(axis=None))
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    axes = figure.subplots()
    for column, (marker, colour, what) in columns.items():
        slack = np.sort(swaps[column].dropna().to_numpy()) / time.size
        late = int((slack < 0).sum())
        label = f"copies {what}: {late} of {len(slack)} late"
        rank = np.arange(1, len(slack) + 1)
        axes.plot(slack, rank, marker=marker, color=colour, markersize=5, linewidth=0, label=label)
    left, right = axes.get_xlim()
    axes.axvspan(min(left, 0), 0, color=STALL, alpha=0.12, linewidth=0)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set(
        title=title,
        xlim=(min(left, 0), max(right, 0)),
        xlabel=f"slack, {time.name} (simulated); left of 0, shaded: compute waits",
        ylabel="copies, the latest first",
    )
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")
    return figure


def link_use_figure(use: pd.DataFrame, *, title: str) -> Figure:
    """Draws how busy each direction of the link is along the step, and where compute waits.

    Args:
        use: From `analysis.lanes.link_use_over_time_table`.
        title: Above the picture.
    """
    part_us = use.index[1] - use.index[0] if len(use) > 1 else 1.0
    time = time_unit(use.index.max() + part_us)
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, sharey=True)
    starts = use.index.to_numpy() / time.size
    lanes = (LaneName.D2H, LaneName.H2D, LaneName.STALL)
    for axes, lane in zip(panels, lanes, strict=True):
        share = 100 * use[lane.value]
        width = part_us / time.size
        axes.bar(starts, share, width=width, align="edge", color=LANES[lane.value])
        axes.set_ylabel(f"{lane.value}, % of time")
        axes.grid(alpha=0.3, axis="y")
        mean = f"{share.mean():.0f}% of the step"
        axes.set_title(mean, loc="right", fontsize="small", pad=2)
    panels[0].set(ylim=(0, 100), xlim=(0, starts[-1] + part_us / time.size))
    panels[0].set_title(title)
    panels[-1].set_xlabel(f"time in the step, {time.name} (simulated)")
    return figure


def _draw_span(
    axes: Axes,
    row: int,
    span_us: tuple[float, float],
    step_us: float,
    time: AxisUnit,
    colour: str,
    height: float,
) -> None:
    """Draws a bar; the part of it in the next step goes to the begin of this one."""
    start_us, end_us = span_us
    for shift_us in (0.0, step_us):
        left, right = max(start_us - shift_us, 0.0), min(end_us - shift_us, step_us)
        if right > left:
            width = (right - left) / time.size
            axes.barh(row, width, left=left / time.size, height=height, color=colour)


def _swap_handles() -> list[Patch | Line2D]:
    return [
        Patch(color=D2H, label="copy to the host"),
        Line2D([], [], color=GREY, linewidth=3, label="away"),
        Patch(color=H2D, label="copy back"),
        Line2D(
            [],
            [],
            color=BLACK,
            marker="|",
            markersize=11,
            markeredgewidth=2,
            linestyle="none",
            label="compute goes on to use it",
        ),
    ]
