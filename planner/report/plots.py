"""Pictures: the style that all of them share, and memory over one step."""

import io
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profiles.schema.profile import Provenance
from profiles.schema.units import time_text

# Okabe and Ito, Color Universal Design: readers with any kind of colour vision tell them apart.
# Where two of them stand for two things, something else differs too (dashes, markers, place), for
# print without colour.
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#8C8C8C"
BLACK = "#000000"

WITHOUT_PLAN = ORANGE
WITH_PLAN = BLUE

COMPUTE = GREY
STALL = VERMILION
RECOMPUTE = PURPLE
D2H = BLUE
H2D = GREEN

MANY = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""For lines that have no colour of their own, in this order."""
STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))
"""Markers and dashes of lines, in this order."""

DOTS_PER_INCH = 150
WIDTH_IN = 9.0
ROW_IN = 0.27
"""Height of a row of bars."""


class AxisUnit(NamedTuple):
    """So many bytes or microseconds, and the unit's name on the axis."""

    size: float
    name: str


SIZE_UNITS = (
    AxisUnit(2**30, "GiB"),
    AxisUnit(2**20, "MiB"),
    AxisUnit(2**10, "KiB"),
    AxisUnit(1, "bytes"),
)
TIME_UNITS = (AxisUnit(1e6, "s"), AxisUnit(1e3, "ms"), AxisUnit(1.0, "us"))


def size_unit(largest_bytes: float) -> AxisUnit:
    """Returns the unit for an axis that goes up to so many bytes."""
    return _largest(SIZE_UNITS, largest_bytes)


def time_unit(largest_us: float) -> AxisUnit:
    """Returns the unit for an axis that goes up to so many microseconds."""
    return _largest(TIME_UNITS, largest_us)


def _largest(units: tuple[AxisUnit, ...], largest: float) -> AxisUnit:
    return next((unit for unit in units if largest >= unit.size), units[-1])


def png_bytes(figure: Figure, *, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """Returns a figure as a PNG file's content."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots_per_inch)
    return stream.getvalue()


def memory_figure(
    memory: pd.DataFrame, *, title: str, times: Provenance, budget_bytes: int | None = None
) -> Figure:
    """Draws resident bytes over one step, from `planner.report.tables.memory_table`, and a budget
    as a line."""
    highest = max(memory["without_bytes"].max(), budget_bytes or 0)
    unit_bytes, unit = size_unit(highest)
    start_s = memory["start_us"] / 1e6
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    curves = {"without_bytes": ("without a plan", WITHOUT_PLAN)}
    if "with_bytes" in memory:
        curves["with_bytes"] = ("with the plan", WITH_PLAN)
    for column, (what, colour) in curves.items():
        sizes = memory[column] / unit_bytes
        label = f"{what}: peak {sizes.max():.2f} {unit}"
        axes.step(start_s, sizes, where="post", color=colour, linewidth=1.5, label=label)
        if column == "with_bytes":
            axes.fill_between(start_s, sizes, step="post", color=colour, alpha=0.15)
    if "recompute_us" in memory and memory["recompute_us"].sum() > 0:
        _mark_recompute(axes, memory, start_s)
    if budget_bytes is not None:
        label = f"budget: {budget_bytes / unit_bytes:.2f} {unit}"
        axes.axhline(
            budget_bytes / unit_bytes, color="black", linestyle="--", linewidth=1.2, label=label
        )
    axes.set(
        title=title,
        xlabel=f"time in the step, s ({times.value} with nothing moved; stalls not drawn)",
        ylabel=f"resident device memory, {unit}",
        xlim=(0, max(start_s.max(), 1e-9)),
        ylim=(0, highest / unit_bytes * 1.05 or 1),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _mark_recompute(axes: Axes, memory: pd.DataFrame, start_s: pd.Series) -> None:
    """Marks when ops are run again, along the time axis."""
    again_s = memory["recompute_us"] / 1e6
    spans = [(start, us) for start, us in zip(start_s, again_s, strict=True) if us > 0]
    axes.broken_barh(
        spans,
        (0, 0.04),
        transform=axes.get_xaxis_transform(),
        facecolor=RECOMPUTE,
        edgecolor=RECOMPUTE,
        label=f"ops run again: {time_text(memory['recompute_us'].sum())}",
    )
