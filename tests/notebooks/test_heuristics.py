"""What `notebooks/budget_sweep.ipynb` shows, on a step worked out by hand."""

import math

import pytest

from analysis.heuristics import (
    budgets_of_shares,
    heuristic_sweep_table,
    heuristics_figure,
    link_choices,
    solved_sweep_table,
    step_times_table,
)
from planner.heuristics.controls import EVERYTHING, NOTHING
from planner.report.plots import png_bytes
from planner.studies.sweep import (
    SweepSettings,
    solve_point,
    sweep_points,
    sweep_table,
)
from profiles.schema.profile import Provenance
from tests.support.planning.figures import words_of
from tests.support.planning.toys import SLOW, sandwich, toy_link

FAST = toy_link().model_copy(update={"name": "fast"})
POINTS = sweep_points(link_choices([SLOW, FAST]), [200, 105])
WHO = (NOTHING, EVERYTHING)


def test_budgets_are_shares_of_the_peak() -> None:
    assert budgets_of_shares(150, [100, 70, 33]) == (150, 105, 49)


def test_a_link_alone_is_one_workers() -> None:
    [choice] = link_choices([SLOW])
    assert (choice.name, choice.workers, choice.link) == ("toy", 1, SLOW)


def test_points_are_planned_one_after_the_other() -> None:
    settings = SweepSettings()
    table = solved_sweep_table(sandwich(), POINTS, settings).drop(columns="solve_seconds")
    alone = sweep_table([solve_point(sandwich(), point, settings) for point in POINTS])
    assert table.equals(alone.drop(columns="solve_seconds"))


def test_heuristics_stand_at_every_point() -> None:
    table = heuristic_sweep_table(sandwich(), POINTS, WHO)
    assert table[["link", "budget_bytes", "name"]].to_numpy().tolist() == [
        [link, budget, who.name] for link in ("toy", "fast") for budget in (200, 105) for who in WHO
    ]
    assert table["fits"].to_list() == [True, True, False, True] * 2
    slow, fast = table[table["link"] == "toy"], table[table["link"] == "fast"]
    assert slow["step_us"].to_list() == pytest.approx([5000.0, 5000.0, 5000.0, 13_000.0])
    assert fast["step_us"].to_list() == pytest.approx([5000.0] * 4)
    # Where there is room, a copy still on its way out when it is due back frees nothing: no swap.
    assert table["moved_bytes"].to_list() == [0, 0, 0, 50, 0, 50, 0, 50]


def test_step_times_are_shares_of_compute_with_ours_first() -> None:
    sweep = solved_sweep_table(sandwich(), POINTS, SweepSettings())
    beside = heuristic_sweep_table(sandwich(), POINTS, WHO)
    times = step_times_table(sweep, beside, link="toy")
    assert times.index.to_list() == ["swapplan", "no plan is below", NOTHING.name, EVERYTHING.name]
    assert times.columns.to_list() == [200, 105]
    assert times.loc["swapplan"].to_list() == pytest.approx([1.0, 2.6])
    assert times.loc["no plan is below", 105] <= 2.6
    assert times.loc[EVERYTHING.name].to_list() == pytest.approx([1.0, 2.6])
    assert times.loc[NOTHING.name, 200] == pytest.approx(1.0)
    assert math.isnan(times.loc[NOTHING.name, 105])


def test_a_picture_has_a_panel_for_each_link() -> None:
    sweep = solved_sweep_table(sandwich(), POINTS, SweepSettings())
    beside = heuristic_sweep_table(sandwich(), POINTS, WHO)
    figure = heuristics_figure(sweep, beside, title="plans", times=Provenance.ESTIMATED)
    assert [axes.get_title() for axes in figure.axes] == ["toy", "fast"]
    words = words_of(figure)
    assert "step time over compute (estimated), simulated" in words
    assert "budget, bytes" in words
    assert EVERYTHING.name in words
    assert png_bytes(figure)
