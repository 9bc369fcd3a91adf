"""The picture of a sweep with the heuristics beside: one panel per link."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from planner.heuristics.heuristic import Heuristic
from planner.heuristics.task import task_of
from planner.report.plots import (
    BLACK,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH_IN,
    WITH_PLAN,
    AxisUnit,
    size_unit,
)
from planner.studies.compare import Comparison
from planner.studies.sweep import LinkChoice, SweepPoint, SweepSettings, solve_point, sweep_table
from profiles.schema.profile import Link, Profile, Provenance

COLUMNS = ("link", "workers", "budget_bytes", "name", "fits", "step_us", "moved_bytes")


def budgets_of_shares(peak_bytes: int, percents: Iterable[int]) -> tuple[int, ...]:
    """Returns budgets that are so many percent of a peak."""
    return tuple(peak_bytes * percent // 100 for percent in percents)


def link_choices(links: Iterable[Link]) -> tuple[LinkChoice, ...]:
    """Returns links as one worker alone has them."""
    return tuple(LinkChoice(name=link.name, workers=1, link=link) for link in links)


def solved_sweep_table(
    profile: Profile, points: Iterable[SweepPoint], settings: SweepSettings
) -> pd.DataFrame:
    """Plans for every point, one after the other; the table is that of `sweep_table`.

    Raises:
        SolverError: The solver is missing or failed.
    """
    return sweep_table(solve_point(profile, point, settings) for point in points)


def heuristic_sweep_table(
    profile: Profile, points: Iterable[SweepPoint], heuristics: Sequence[Heuristic]
) -> pd.DataFrame:
    """Returns one row per point and heuristic, in the order given.

    Columns: `link`, `workers`, `budget_bytes` (as in `planner.studies.sweep.sweep_table`), `name`
    (the heuristic's), `fits` (whether what it chose is within the budget), `step_us` and
    `moved_bytes` (to the host per step); simulated.

    Args:
        profile: The step.
        points: What to plan for.
        heuristics: Who plans.
    """
    rows = [
        (
            point.choice.name,
            point.choice.workers,
            point.budget_bytes,
            row.name,
            row.fits,
            row.step_us,
            row.moved_bytes,
        )
        for point in points
        for row in _comparison(profile, point).rows(heuristics)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def step_times_table(sweep: pd.DataFrame, beside: pd.DataFrame, *, link: str) -> pd.DataFrame:
    """Returns step times over the time of compute on one link, one row per planner.

    Columns: `name` (index: ours first, then the bound, then the heuristics), and one per budget in
    bytes, the largest first. What does not fit the budget is not a number.

    Args:
        sweep: From `planner.studies.sweep.sweep_table`, for one number of workers.
        beside: From `heuristic_sweep_table`, for the same points.
        link: Which link.
    """
    ours = sweep[sweep["link"] == link].set_index("budget_bytes")
    compute_us = ours["compute_us"].max()
    theirs = beside[(beside["link"] == link) & beside["fits"]]
    names = beside["name"].unique()
    budgets = sorted(ours.index, reverse=True)
    times_us = theirs.pivot_table(index="name", columns="budget_bytes", values="step_us")
    times_us = times_us.reindex(index=names, columns=budgets)
    both = ours[["step_us", "bound_step_us"]].astype(float).T.reindex(columns=budgets)
    both.index = pd.Index(["swapplan", "no plan is below"])
    table = pd.concat([both, times_us]) / compute_us
    table.index.name, table.columns.name = "name", "budget_bytes"
    return table


def _comparison(profile: Profile, point: SweepPoint) -> Comparison:
    task = task_of(profile, point.budget_bytes, point.choice.link)
    # No bound is asked of these rows: a sweep has its own.
    return Comparison(task, 0.0, is_full=False)


STYLES = ((VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"), (GREY, "X"))
"""Colour and marker of the heuristics, in turn."""


def heuristics_figure(
    sweep: pd.DataFrame, beside: pd.DataFrame, *, title: str, times: Provenance
) -> Figure:
    """Draws step times against budget, ours, the bound and the heuristics; one panel per link.

    Heuristics are drawn where what they choose fits the budget.

    Args:
        sweep: From `planner.studies.sweep.sweep_table`, for one number of workers.
        beside: From `analysis.heuristics.heuristic_sweep_table`, for the same points.
        title: Above the picture.
        times: Whether the profile's times were measured or estimated.
    """
    links = list(sweep["link"].unique())
    size = size_unit(sweep["budget_bytes"].max())
    styles = dict(zip(beside["name"].unique(), cycle(STYLES), strict=False))
    figure = Figure(figsize=(WIDTH_IN, 4.8), layout="constrained")
    panels = figure.subplots(1, len(links), squeeze=False)[0]
    for axes, link in zip(panels, links, strict=True):
        rows = sweep[sweep["link"] == link].sort_values("budget_bytes")
        fitting = beside[(beside["link"] == link) & beside["fits"]]
        for name, theirs in fitting.groupby("name", sort=False):
            _draw_heuristic(axes, theirs, rows["compute_us"].max(), size, styles[name])
        _draw_ours(axes, rows, size)
        axes.set(title=link, xlabel=f"budget, {size.name}", ylim=(1 - _margin(axes), None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"step time over compute ({times.value}), simulated")
    figure.suptitle(title)
    figure.legend(handles=_handles(styles), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_heuristic(
    axes: Axes, rows: pd.DataFrame, compute_us: float, size: AxisUnit, style: tuple[str, str]
) -> None:
    ordered = rows.sort_values("budget_bytes")
    colour, marker = style
    axes.plot(
        ordered["budget_bytes"] / size.size,
        ordered["step_us"] / compute_us,
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=":",
        linewidth=1,
    )


def _draw_ours(axes: Axes, rows: pd.DataFrame, size: AxisUnit) -> None:
    planned = rows.dropna(subset="step_us")
    budgets = planned["budget_bytes"].astype(float) / size.size
    bound = planned["bound_step_us"].astype(float) / planned["compute_us"]
    # A bound only falls as the budget grows, so each one holds down to the next smaller budget.
    axes.fill_between(budgets, 0, bound, step="pre", color=WITH_PLAN, alpha=0.15, linewidth=0)
    axes.plot(budgets, bound, color=WITH_PLAN, marker="_", markersize=16, linestyle="none")
    step = planned["step_us"].astype(float) / planned["compute_us"]
    axes.plot(budgets, step, color=WITH_PLAN, marker="o", linewidth=2)
    axes.axhline(1.0, color=BLACK, linestyle="--", linewidth=1)


def _margin(axes: Axes) -> float:
    """What is left below the time of compute, so that the floor can be seen."""
    return 0.15 * max(axes.get_ylim()[1] - 1, 0.02)


def _handles(styles: dict[str, tuple[str, str]]) -> list[Line2D | Patch]:
    heuristics = [
        Line2D([], [], color=colour, marker=marker, linestyle=":", label=name)
        for name, (colour, marker) in styles.items()
    ]
    return [
        Line2D([], [], color=WITH_PLAN, marker="o", linewidth=2, label="swapplan"),
        Patch(color=WITH_PLAN, alpha=0.15, label="no plan is there, nor below a dash (bound)"),
        Line2D([], [], color=BLACK, linestyle="--", label="nothing moved"),
        *heuristics,
    ]
