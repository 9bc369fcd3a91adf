"""Pictures of the tables in `planner.tables`."""

import io

import pandas as pd
from matplotlib.figure import Figure

from planner.axis_unit import size_unit
from planner.palette import WITH_PLAN, WITHOUT_PLAN
from profiles.profile import Provenance

DOTS_PER_INCH = 150


def memory_figure(
    memory: pd.DataFrame, *, title: str, times: Provenance, budget_bytes: int | None = None
) -> Figure:
    """Draws resident bytes over one step.

    Args:
        memory: From `planner.tables.memory_table`.
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
