"""Pictures of a profile: what its memory is made of, whose time it is, what lies idle."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.idle_gaps import round_trip_us
from analysis.kind_memory import OVERHEAD
from analysis.modules import Phase
from planner.report.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    ROW_IN,
    SKY,
    TIME_UNITS,
    VERMILION,
    WIDTH_IN,
    YELLOW,
    size_unit,
    time_unit,
)
from profiles.schema.profile import Link, Provenance, StorageKind

KINDS = {
    StorageKind.PARAMETER.value: BLUE,
    StorageKind.BUFFER.value: PURPLE,
    StorageKind.OPTIMIZER_STATE.value: GREEN,
    StorageKind.GRADIENT.value: VERMILION,
    StorageKind.ACTIVATION.value: SKY,
    StorageKind.INPUT.value: YELLOW,
    StorageKind.TEMPORARY.value: ORANGE,
}
"""By the word for a kind of storage."""

PHASES = {Phase.FORWARD.value: SKY, Phase.BACKWARD.value: BLUE, Phase.OPTIMIZER.value: ORANGE}
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def kind_memory_figure(
    memory: pd.DataFrame, *, title: str, times: Provenance, capacity_bytes: int | None = None
) -> Figure:
    """Draws what resident memory consists of over the step.

    Args:
        memory: From `analysis.kind_memory.kind_memory_table`.
        title: Above the picture.
        times: Whether the profile's times were measured or estimated.
        capacity_bytes: The device's memory, drawn as a line if given.
    """
    bytes_of = memory.drop(columns="start_us")
    highest = max(bytes_of.sum(axis=1).max(), capacity_bytes or 0)
    size, time = size_unit(highest), time_unit(memory["start_us"].max())
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    axes = figure.subplots()
    base = np.zeros(len(memory))
    start = memory["start_us"] / time.size
    for kind in _from_the_bottom(bytes_of):
        top = base + bytes_of[kind].to_numpy() / size.size
        axes.fill_between(
            start,
            base,
            top,
            step="post",
            color=KINDS.get(kind, GREY),
            linewidth=0,
            label=f"{_word(kind)}: up to {bytes_of[kind].max() / size.size:.2f} {size.name}",
        )
        base = top
    if capacity_bytes is not None:
        label = f"device: {capacity_bytes / size.size:.2f} {size.name}"
        axes.axhline(capacity_bytes / size.size, color=BLACK, linestyle="--", label=label)
    axes.set(
        title=title,
        xlabel=f"time in the step, {time.name} ({times.value}, nothing moved)",
        ylabel=f"resident device memory, {size.name}",
        xlim=(0, max(start.max(), 1e-9)),
        ylim=(0, highest / size.size * 1.05 or 1),
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def modules_figure(
    module_times: pd.DataFrame,
    module_bytes: pd.DataFrame,
    *,
    title: str,
    times: Provenance,
    top: int = 12,
) -> Figure:
    """Draws the time of each module beside its bytes at the peak, the longest first.

    Args:
        module_times: From `analysis.modules.module_times_table`.
        module_bytes: From `analysis.modules.module_bytes_table`, at the same depth.
        title: Above the picture.
        times: Whether the profile's times were measured or estimated.
        top: How many modules to draw.
    """
    of_time = module_times.head(top)
    of_bytes = module_bytes.reindex(of_time.index, fill_value=0)
    time = time_unit(of_time["all"].max())
    size = size_unit(of_bytes["all"].max())
    figure = Figure(figsize=(WIDTH_IN, 1.7 + ROW_IN * len(of_time)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _stacked_bars(left, of_time.drop(columns="all") / time.size, PHASES)
    _stacked_bars(right, of_bytes.drop(columns="all") / size.size, KINDS)
    left.invert_yaxis()
    left.set(xlabel=f"time in the step, {time.name} ({times.value})")
    right.set(xlabel=f"device memory at the peak, {size.name}")
    figure.suptitle(title)
    return figure


def lifetimes_figure(
    lifetimes: pd.DataFrame, uses: pd.DataFrame, *, title: str, times: Provenance
) -> Figure:
    """Draws when storages are on the device and when an op uses them, one row each.

    Args:
        lifetimes: Rows of `analysis.lifetimes.lifetimes_table`, from top to bottom.
        uses: From `analysis.lifetimes.uses_table`, of the same storages.
        title: Above the picture.
        times: Whether the profile's times were measured or estimated.
    """
    time = time_unit(lifetimes["gone_us"].max())
    figure = Figure(figsize=(WIDTH_IN, 1.7 + ROW_IN * len(lifetimes)), layout="constrained")
    axes = figure.subplots()
    rows = {id_: row for row, id_ in enumerate(lifetimes.index)}
    for id_, life in lifetimes.iterrows():
        width = (life["gone_us"] - life["born_us"]) / time.size
        left = life["born_us"] / time.size
        axes.barh(rows[id_], width, left=left, height=0.7, color=KINDS[life["kind"]], alpha=0.6)
    for use in uses.itertuples():
        span = (use.start_us / time.size, (use.end_us - use.start_us) / time.size)
        bar = (rows[use.id] - 0.35, 0.7)
        axes.broken_barh([span], bar, facecolor=BLACK, edgecolor=BLACK, linewidth=0.8)
    size = size_unit(lifetimes["size_bytes"].max())
    labels = [
        f"{life['name']}  {life['module']}  {life['size_bytes'] / size.size:.2f} {size.name}"
        for _, life in lifetimes.iterrows()
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.set(title=title, xlabel=f"time in the step, {time.name} ({times.value}, nothing moved)")
    axes.set_xlim(0, lifetimes["gone_us"].max() / time.size)
    kinds = [
        Patch(color=KINDS[kind], alpha=0.6, label=f"{_word(kind)}, idle")
        for kind in lifetimes["kind"].unique()
    ]
    used = Patch(color=BLACK, label="used by an op")
    figure.legend(handles=[*kinds, used], loc="outside lower center", ncols=4, frameon=False)
    return figure


def idle_gaps_figure(
    gaps: pd.DataFrame, links: Sequence[Link], *, title: str, times: Provenance
) -> Figure:
    """Draws each gap by its bytes and its idle time, and how long out and back take on each link.

    Args:
        gaps: From `analysis.idle_gaps.idle_gaps_table`; one row at least.
        links: The links to draw as lines.
        title: Above the picture.
        times: Whether the profile's times were measured or estimated.
    """
    size = size_unit(gaps["size_bytes"].max() / 10)
    time = next(unit for unit in TIME_UNITS if gaps["idle_us"].max() / 10 >= unit.size)
    figure = Figure(figsize=(WIDTH_IN, 5.0), layout="constrained")
    axes = figure.subplots()
    for kind, rows in gaps.groupby("kind"):
        idle, sizes = rows["idle_us"] / time.size, rows["size_bytes"] / size.size
        axes.scatter(idle, sizes, s=28, color=KINDS[kind], edgecolor=BLACK, linewidth=0.4)
    sizes_bytes = np.geomspace(gaps["size_bytes"].min() / 2, gaps["size_bytes"].max() * 2)
    for link, dashes in zip(links, DASHES, strict=False):
        needed = [round_trip_us(link, size_bytes) / time.size for size_bytes in sizes_bytes]
        axes.plot(needed, sizes_bytes / size.size, color=BLACK, linestyle=dashes, linewidth=1.3)
    axes.set(
        title=title,
        xscale="log",
        yscale="log",
        xlabel=f"idle between two uses, {time.name} ({times.value}, nothing moved)",
        ylabel=f"size, {size.name}",
        ylim=(sizes_bytes[0] / size.size, sizes_bytes[-1] / size.size),
    )
    axes.grid(alpha=0.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    kinds = [Patch(color=KINDS[kind], label=_word(kind)) for kind in sorted(gaps["kind"].unique())]
    lines = [
        Line2D([], [], color=BLACK, linestyle=dashes, label=f"out and back, {link.name}")
        for link, dashes in zip(links, DASHES, strict=False)
    ]
    figure.legend(handles=[*kinds, *lines], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _from_the_bottom(bytes_of: pd.DataFrame) -> list[str]:
    """Kinds with bytes: what changes least at the bottom, what lies beyond storages on top."""
    kinds = [kind for kind in bytes_of if kind != OVERHEAD and bytes_of[kind].any()]
    kinds.sort(key=lambda kind: bytes_of[kind].std())
    return kinds + [OVERHEAD] * bool(bytes_of[OVERHEAD].any())


def _word(kind: str) -> str:
    return kind.replace("_", " ")


def _stacked_bars(axes: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    base = np.zeros(len(table))
    for column in table:
        values = table[column].to_numpy(dtype=float)
        if values.any():
            axes.barh(table.index, values, left=base, color=colours[column], label=_word(column))
        base = base + values
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, loc="lower right", fontsize="small")
