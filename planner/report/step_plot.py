"""A plan's step as a picture: memory against the budget, what each lane does, what is dropped."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from planner.plan.device_memory import Absence, resident_bytes
from planner.plan.plan import Plan
from planner.report.lanes import LaneName, lanes_table
from planner.report.plots import (
    BLACK,
    COMPUTE,
    D2H,
    H2D,
    RECOMPUTE,
    ROW_IN,
    STALL,
    WIDTH_IN,
    WITH_PLAN,
    WITHOUT_PLAN,
    AxisUnit,
    size_unit,
    time_unit,
)
from planner.report.simulated_step import SimulatedStep, simulated_step
from profiles.schema.units import size_text, time_text

LANES = {
    LaneName.COMPUTE.value: COMPUTE,
    LaneName.RECOMPUTE.value: RECOMPUTE,
    LaneName.STALL.value: STALL,
    LaneName.D2H.value: D2H,
    LaneName.H2D.value: H2D,
}
ROWS = {
    LaneName.COMPUTE.value: 2,
    LaneName.RECOMPUTE.value: 2,
    LaneName.STALL.value: 2,
    LaneName.D2H.value: 1,
    LaneName.H2D.value: 0,
}
"""Where a lane is drawn; compute runs ops again and waits in its own lane."""
TOP = 4
"""How many of the storages that are dropped have a row."""
LATE = 0.6
"""From this share of the step on, a name is written within its bar: behind it is no room."""
ON_HOST, DROPPED = 0.28, 0.35
"""How strong the colours of what is away are."""


def step_figure(plan: Plan, *, title: str) -> Figure:
    """Draws a plan's simulated step from top to bottom: memory without and with the plan, and where
    what is away is; compute, with what runs again and where it waits, and both directions of the
    link; and the largest storages that are dropped, until the ops that make them run again.

    Args:
        plan: The plan.
        title: Above the picture; what the step takes comes below it.
    """
    step = simulated_step(plan)
    time = time_unit(step.timeline.step_us)
    dropped = min(TOP, sum(len(rebuild.storages) for rebuild in step.rebuilds))
    heights = [2.9, 1.25] + ([0.2 + ROW_IN * dropped] if dropped else [])
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1.35), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_memory(panels[0], step, time)
    draw_lanes(panels[1], lanes_table(plan), time)
    if dropped:
        _draw_drops(panels[2], step, time)
    panels[0].set_title(f"{title}\n{_cost_text(plan)}", fontsize="medium")
    panels[-1].set(
        xlabel=f"time in the step, {time.name} (simulated)",
        xlim=(0, max(step.timeline.step_us / time.size, 1e-9)),
    )
    figure.legend(handles=_handles(plan, panels[0]), loc="outside lower center", ncols=3)
    return figure


def draw_lanes(axes: Axes, lanes: pd.DataFrame, time: AxisUnit) -> None:
    """Draws what each lane does: three rows, compute above.

    Args:
        axes: Where.
        lanes: From `planner.report.lanes.lanes_table`.
        time: The unit of the axis.
    """
    for lane, rows in lanes.groupby("lane"):
        spans = zip(rows["start_us"], rows["end_us"] - rows["start_us"], strict=True)
        scaled = [(start / time.size, width / time.size) for start, width in spans]
        bar = (ROWS[lane] - 0.35, 0.7)
        axes.broken_barh(scaled, bar, facecolor=LANES[lane], edgecolor="white", linewidth=0.2)
    # What runs again takes little time: without a mark nobody would see it.
    again = lanes[lanes["lane"] == LaneName.RECOMPUTE.value]
    middles = (again["start_us"] + again["end_us"]) / 2 / time.size
    axes.plot(middles, [2.55] * len(again), "v", color=RECOMPUTE, markersize=6)
    axes.set_yticks(
        [ROWS[lane.value] for lane in (LaneName.H2D, LaneName.D2H, LaneName.COMPUTE)],
        ["back (H2D)", "to host (D2H)", "compute"],
    )
    axes.set_ylim(-0.5, 2.5 if again.empty else 2.8)


def _draw_memory(axes: Axes, step: SimulatedStep, time: AxisUnit) -> None:
    """Memory with the plan, above it what waits on the host, and above that what was dropped: up to
    what the step holds without the plan."""
    plan, slots = step.plan, range(len(step.plan.slots))
    highest = max(*step.without_bytes, plan.budget_bytes)
    size = size_unit(highest)
    start = [us / time.size for us in (*step.timeline.start_us, step.timeline.step_us)]

    def scaled(sizes_bytes: Sequence[int]) -> list[float]:
        return [size_bytes / size.size for size_bytes in (*sizes_bytes, sizes_bytes[-1])]

    on_host = resident_bytes(
        step.with_bytes,
        (
            Absence(swap.release_slot, swap.swap_in_slot, -plan.sizes_bytes[swap.storage])
            for swap in plan.swaps
        ),
    )
    without = scaled(step.without_bytes)
    with_plan = scaled(step.with_bytes)
    there = scaled([min(on_host[t], max(step.without_bytes[t], step.with_bytes[t])) for t in slots])
    dropped = scaled([max(step.without_bytes[t], on_host[t]) for t in slots])
    if plan.rebuilds:
        axes.fill_between(start, there, dropped, step="post", color=RECOMPUTE, alpha=DROPPED, lw=0)
    axes.fill_between(start, with_plan, there, step="post", color=H2D, alpha=ON_HOST, lw=0)
    axes.fill_between(start, with_plan, step="post", color=WITH_PLAN, alpha=0.25, lw=0)
    peak = f"without the plan: peak {max(without):.2f} {size.name}"
    axes.step(start, without, where="post", color=WITHOUT_PLAN, ls="--", lw=1.6, label=peak)
    peak = f"with the plan: peak {max(with_plan):.2f} {size.name}"
    axes.step(start, with_plan, where="post", color=WITH_PLAN, lw=1.8, label=peak)
    budget = plan.budget_bytes / size.size
    axes.axhline(budget, color=BLACK, lw=1.4)
    axes.annotate(
        f"budget {budget:.2f} {size.name}",
        (1, budget),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        weight="bold",
        fontsize="small",
    )
    axes.set(ylabel=f"memory, {size.name}", ylim=(0, highest / size.size * 1.05 or 1))
    axes.grid(alpha=0.3)


def _draw_drops(axes: Axes, step: SimulatedStep, time: AxisUnit) -> None:
    """A row for each of the largest storages dropped: away without a copy, then made again."""
    spans = [
        (step.plan.sizes_bytes[drop.storage], drop, one)
        for one in step.rebuilds
        for drop in one.rebuild.drops
    ]
    largest = sorted(spans, key=lambda span: -span[0])[:TOP]
    for row, (size_bytes, drop, one) in enumerate(sorted(largest, key=lambda span: span[1].slot)):
        start, end = step.timeline.start_us[drop.slot] / time.size, one.start_us / time.size
        axes.barh(row, end - start, left=start, height=0.8, color=RECOMPUTE, alpha=DROPPED)
        axes.plot([end], [row], "v", color=RECOMPUTE, markersize=8)
        storage = step.plan.storage(drop.storage)
        is_late = end * time.size > LATE * step.timeline.step_us
        axes.annotate(
            f"{storage.module or storage.name}, {size_text(size_bytes)}",
            (start if is_late else end, row),
            xytext=(3 if is_late else 9, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks([(len(largest) - 1) / 2], [f"dropped\n({len(largest)} of {len(spans)})"])
    axes.set_ylim(len(largest) - 0.4, -0.6)


def _cost_text(plan: Plan) -> str:
    about = plan.certificate
    parts = [f"{time_text(about.compute_us)} compute ({plan.times.value})"]
    if plan.rebuilds:
        parts.append(f"{time_text(about.recompute_us)} run again")
    parts.append(f"{time_text(about.simulated_stall_us)} stall")
    more = about.beyond_us / max(about.compute_us, 1e-9)
    step = time_text(about.simulated_step_us)
    return f"step {step} (simulated): {' + '.join(parts)}, +{more:.1%}"


def _handles(plan: Plan, memory: Axes) -> list[Artist]:
    lines, _ = memory.get_legend_handles_labels()
    marks: list[Artist] = [
        *lines,
        Patch(color=H2D, alpha=ON_HOST, label="waits in host memory"),
        Patch(color=STALL, label="compute waits for a copy"),
    ]
    if plan.rebuilds:
        triangle = Line2D([], [], color=RECOMPUTE, marker="v", ls="", label="ops run again")
        marks += [Patch(color=RECOMPUTE, alpha=DROPPED, label="dropped: no copy"), triangle]
    return marks
