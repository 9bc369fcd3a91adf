"""Pictures of the tables in `planner.report.tables`.

The colours of every picture: those of Okabe and Ito, Color Universal Design.

Readers with any kind of colour vision tell them apart. Where two of them stand for two things,
something else differs too (dashes, markers, place), for print without colour.
"""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from profiles.schema.profile import Provenance, StorageKind

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
D2H = BLUE
H2D = GREEN

KINDS: Mapping[str, str] = MappingProxyType(
    {
        StorageKind.PARAMETER.value: BLUE,
        StorageKind.BUFFER.value: PURPLE,
        StorageKind.OPTIMIZER_STATE.value: GREEN,
        StorageKind.GRADIENT.value: VERMILION,
        StorageKind.ACTIVATION.value: SKY,
        StorageKind.INPUT.value: YELLOW,
        StorageKind.TEMPORARY.value: ORANGE,
    }
)
"""By the word for a kind of storage."""

MANY = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""For lines that have no colour of their own, in this order."""


class AxisUnit(NamedTuple):
    """A unit.

    Attributes:
        size: How many bytes or microseconds it is.
        name: As it stands on the axis.
    """

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


DOTS_PER_INCH = 150


def memory_figure(
    memory: pd.DataFrame, *, title: str, times: Provenance, budget_bytes: int | None = None
) -> Figure:
    """Draws resident bytes over one step.

    Args:
        memory: From `planner.report.tables.memory_table`.
        title: Above the picture.
        times: Whether the times were measured or estimated.
        budget_bytes: Drawn as a line, if given.
    """
    highest = max(memory["without_bytes"].max(), budget_bytes or 0)
    unit_bytes, unit = size_unit(highest)
    start_s = memory["start_us"] / 1e6
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.step(
        start_s,
        memory["without_bytes"] / unit_bytes,
        where="post",
        color=WITHOUT_PLAN,
        linewidth=1.5,
        label=_label("without a plan", memory["without_bytes"].max() / unit_bytes, unit),
    )
    if "with_bytes" in memory:
        with_plan = memory["with_bytes"] / unit_bytes
        axes.step(
            start_s,
            with_plan,
            where="post",
            color=WITH_PLAN,
            linewidth=1.5,
            label=_label("with the plan", with_plan.max(), unit),
        )
        axes.fill_between(start_s, with_plan, step="post", color=WITH_PLAN, alpha=0.15)
    if budget_bytes is not None:
        axes.axhline(
            budget_bytes / unit_bytes,
            color="black",
            linestyle="--",
            linewidth=1.2,
            label=f"budget: {budget_bytes / unit_bytes:.2f} {unit}",
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


def png_bytes(figure: Figure, *, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    """Returns a figure as a PNG file's content."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots_per_inch)
    return stream.getvalue()


def _label(what: str, peak: float, unit: str) -> str:
    return f"{what}: peak {peak:.2f} {unit}"
