"""The picture of a plan's step: what it says in words, and what it draws of what is away."""

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from planner.plan.plan import Plan
from planner.report.plots import RECOMPUTE, STALL, png_bytes
from planner.report.step_plot import step_figure
from tests.support.planning.figures import words_of
from tests.support.planning.plans import empty_plan, periodic_plan, stalling_plan
from tests.support.planning.rebuilt import mixed_plan, rebuilt_sandwich


def drawn(figure: Figure, colour: str) -> int:
    """How many bars and stretches of a colour the lanes have."""
    collections: Any = figure.axes[1].collections
    faces = [(tuple(one.get_facecolor()[0][:3]), one) for one in collections]
    return sum(len(one.get_paths()) for face, one in faces if face == to_rgb(colour))


@pytest.mark.parametrize("make", [stalling_plan, periodic_plan, mixed_plan, empty_plan])
def test_a_picture_says_units_budget_and_what_is_simulated(make: Callable[[], Plan]) -> None:
    plan = make()
    figure = step_figure(plan, title="plan")
    assert png_bytes(figure)
    said = words_of(figure)
    assert said.splitlines()[1] == "plan"
    assert "(simulated): " in said
    assert f"compute ({plan.times.value})" in said
    assert "without the plan: peak " in said
    written = [text.get_text() for text in figure.axes[0].texts]
    assert [text.split()[0] for text in written] == ["budget"]


def test_what_is_dropped_has_a_row_and_its_ops_a_mark() -> None:
    plan = mixed_plan()
    figure = step_figure(plan, title="plan")
    drops = [drop for rebuild in plan.rebuilds for drop in rebuild.drops]
    assert len(figure.axes) == 3
    assert f"dropped\n({len(drops)} of {len(drops)})" in words_of(figure)
    named = {text.get_text() for text in figure.axes[2].texts}
    assert named == {f"{plan.storage(drop.storage).name}, 50 B" for drop in drops}
    assert drawn(figure, RECOMPUTE) == len(plan.rebuilds)
    assert "ops run again" in words_of(figure)


def test_nothing_is_said_of_recompute_where_there_is_none() -> None:
    figure = step_figure(stalling_plan(), title="plan")
    assert len(figure.axes) == 2
    assert "again" not in words_of(figure)
    assert drawn(figure, STALL)


def test_an_op_that_runs_again_adds_to_the_step() -> None:
    said = words_of(step_figure(rebuilt_sandwich(), title="plan"))
    assert "step 6.0 ms (simulated): 5.0 ms compute (measured) + 1.0 ms run again + 0 us" in said
    assert "+20.0%" in said
