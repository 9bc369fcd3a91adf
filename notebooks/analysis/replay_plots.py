"""Pictures of a replayed step beside the simulated one."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter

from planner.report.lanes import LaneName
from planner.report.plots import BLACK, BLUE, ORANGE, STALL, WIDTH_IN, AxisUnit, time_unit
from planner.report.step_plot import LANES, draw_lanes

COPIES = {LaneName.D2H.value: "o", LaneName.H2D.value: "^"}


def lanes_beside_figure(simulated: pd.DataFrame, measured: pd.DataFrame, *, title: str) -> Figure:
    """Draws the lanes of a simulated step above those of a measured one.

    Args:
        simulated: From `planner.report.lanes.lanes_table`.
        measured: The same of a measured step.
        title: Above the picture.
    """
    longest_us = max(simulated["end_us"].max(), measured["end_us"].max())
    time = time_unit(longest_us)
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, lanes, which in ((above, simulated, "simulated"), (below, measured, "measured")):
        draw_lanes(axes, lanes, time)
        axes.set_title(f"{which}: {lanes['end_us'].max() / time.size:.1f} {time.name}")
        axes.axvline(lanes["end_us"].max() / time.size, color=BLACK, linewidth=1)
    below.set(xlabel=f"time in the step, {time.name}", xlim=(0, longest_us / time.size * 1.02))
    figure.suptitle(title)
    stall = Patch(color=STALL, label="stall; measured, what the runtime takes at anchors, too")
    figure.legend(handles=[stall], loc="outside lower center", frameon=False)
    return figure


def drift_figure(slot_times: pd.DataFrame, *, title: str) -> Figure:
    """Draws how far behind the simulated step the measured one is at each slot, and why.

    Args:
        slot_times: From `planner.report.tables.slot_times_table`.
        title: Above the picture.
    """
    behind_us = slot_times["measured_start_us"] - slot_times["simulated_start_us"]
    at_anchors_us = (slot_times["measured_stall_us"] - slot_times["simulated_stall_us"]).cumsum()
    at = time_unit(slot_times["simulated_start_us"].max())
    time = time_unit(max(behind_us.abs().max(), at_anchors_us.abs().max()))
    figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    axes = figure.subplots()
    start = slot_times["simulated_start_us"] / at.size
    lines = (
        (behind_us, BLUE, "-", "all together"),
        (at_anchors_us, STALL, "--", "from stalls and the runtime's own time at anchors"),
        (behind_us - at_anchors_us, ORANGE, ":", "from the ops between anchors"),
    )
    for late_us, colour, dashes, label in lines:
        late = late_us / time.size
        axes.plot(start, late, color=colour, linestyle=dashes, linewidth=1.6, label=label)
    axes.axhline(0, color=BLACK, linewidth=1)
    axes.set(
        title=title,
        xlabel=f"time in the step, {at.name} (simulated)",
        ylabel=f"measured - simulated, {time.name}",
        xlim=(0, start.max()),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def agreement_figure(durations: pd.DataFrame, copy_times: pd.DataFrame, *, title: str) -> Figure:
    """Draws each slot and each copy by its simulated and its measured time.

    Args:
        durations: From `analysis.step_parts.slot_durations_table`; what took no time is
            left out.
        copy_times: From `analysis.step_parts.copy_times_table`.
        title: Above the picture.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    columns = ["simulated_us", "measured_us"]
    slots = durations[(durations[columns] > 0).all(axis=1)]
    slots_unit = _unit(slots[columns])
    left.scatter(*_points(slots, slots_unit), s=14, color=BLUE, alpha=0.6, label="a slot's ops")
    _draw_agreement(left, slots[columns] / slots_unit.size, slots_unit)
    copies_unit = _unit(copy_times[columns])
    for lane, rows in copy_times.groupby("lane"):
        points = _points(rows, copies_unit)
        label = f"copies, {lane}"
        right.scatter(*points, s=24, marker=COPIES[lane], color=LANES[lane], label=label)
    _draw_agreement(right, copy_times[columns] / copies_unit.size, copies_unit)
    figure.suptitle(title)
    return figure


def _points(table: pd.DataFrame, unit: AxisUnit) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    return table["simulated_us"] / unit.size, table["measured_us"] / unit.size


def _unit(times: pd.DataFrame) -> AxisUnit:
    return time_unit(0.0 if times.empty else times.max(axis=None))


def _draw_agreement(axes: Axes, times: pd.DataFrame, unit: AxisUnit) -> None:
    low, high = (times.min(axis=None) / 1.5, times.max(axis=None) * 1.5) if len(times) else (1, 10)
    line = np.array([low, high])
    axes.plot(line, line, color=BLACK, linewidth=1, label="as simulated")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel=f"simulated, {unit.name}",
        ylabel=f"measured, {unit.name}",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        # Within a decade or so these are named, too, and as the others are.
        axis.set_minor_formatter(LogFormatter())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
