"""Pictures: the style that all of them share, and memory over one step."""

import io
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from profiles.schema.profile import Provenance

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


def memory_figure(memory: pd.DataFrame, *, title: str, times: Provenance) -> Figure:
    """Draws resident bytes over one step with nothing moved.

    Args:
        memory: From `planner.report.tables.memory_table`.
        title: Above the picture.
        times: Where the step's times come from.
    """
    size, time = size_unit(memory["without_bytes"].max()), time_unit(memory["start_us"].max())
    start, held = memory["start_us"] / time.size, memory["without_bytes"] / size.size
    figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
    axes = figure.subplots()
    label = f"without a plan: peak {held.max():.2f} {size.name}"
    axes.step(start, held, where="post", color=WITHOUT_PLAN, linewidth=1.5, label=label)
    axes.fill_between(start, held, step="post", color=WITHOUT_PLAN, alpha=0.15)
    axes.set(
        title=title,
        xlabel=f"time in the step, {time.name} ({times.value})",
        ylabel=f"resident device memory, {size.name}",
        xlim=(0, max(start.max(), 1e-9)),
        ylim=(0, held.max() * 1.05 or 1),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False)
    return figure
