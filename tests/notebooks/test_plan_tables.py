"""What `notebooks/read_a_plan.ipynb` shows, on plans worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from analysis.lanes import link_use_over_time_table, link_use_table
from analysis.plan_plots import link_use_figure, slack_figure, swaps_figure
from analysis.plan_tables import certificate_table, swap_times_table
from planner.plan.plan import Plan
from planner.plan.simulate import simulate_plan
from planner.report.lanes import LaneName, lanes_table
from planner.report.plots import png_bytes
from planner.report.tables import swaps_table
from planner.report.text import certificate_rows
from tests.support.planning.figures import words_of
from tests.support.planning.one_swap import slow_plan
from tests.support.planning.plans import empty_plan, periodic_plan, stalling_plan
from tests.support.planning.rebuilt import mixed_plan

PLANS: dict[str, Callable[[], Plan]] = {
    "stalling": stalling_plan,
    "periodic": periodic_plan,
    "empty": empty_plan,
    "mixed": mixed_plan,
}

each_plan = pytest.mark.parametrize("plan", [make() for make in PLANS.values()], ids=PLANS)


def test_a_trip_is_two_copies_and_the_time_between() -> None:
    swap = swap_times_table(slow_plan()).loc[0]
    assert (swap["name"], swap["kind"], swap["size_bytes"]) == ("pack:0", "activation", 50)
    assert swap[["out_start_us", "out_end_us", "released_us"]].to_list() == [1000.0, 6000.0, 6000.0]
    assert swap[["allocated_us", "in_start_us", "in_end_us"]].to_list() == [7000.0, 7000.0, 12000.0]
    assert (swap["used_us"], swap["away_us"]) == (12000.0, 1000.0)


def test_the_times_of_a_trip_are_in_order_even_round_the_step_boundary() -> None:
    plan = periodic_plan()
    times = swap_times_table(plan)
    assert len(times) == len(plan.swaps)
    copied = times[~times["clean"]]
    assert (copied["out_start_us"] < copied["out_end_us"]).all()
    assert (copied["out_end_us"] <= copied["released_us"]).all()
    assert times["out_end_us"].isna().to_list() == [swap.clean for swap in plan.swaps]
    for one, other in (
        ("released_us", "allocated_us"),
        ("allocated_us", "in_start_us"),
        ("in_start_us", "in_end_us"),
        ("in_end_us", "used_us"),
    ):
        assert (times[one] <= times[other]).all(), (one, other)
    step_us = simulate_plan(plan).step_us
    beyond = times["used_us"] > step_us
    assert beyond.to_list() == [swap.await_slot < swap.swap_out_slot for swap in plan.swaps]
    assert beyond.any()


def test_lanes_of_a_step_worked_out_by_hand() -> None:
    lanes = lanes_table(slow_plan())
    assert lanes.to_numpy().tolist() == [
        ["compute", "begin", 0, 0.0, 1000.0],
        ["compute", "anchor:1", 0, 1000.0, 2000.0],
        ["stall", "anchor:2", 0, 2000.0, 6000.0],
        ["compute", "anchor:2", 0, 6000.0, 7000.0],
        ["compute", "anchor:3", 0, 7000.0, 8000.0],
        ["stall", "anchor:4", 0, 8000.0, 12000.0],
        ["compute", "anchor:4", 0, 12000.0, 13000.0],
        ["D2H", "pack:0", 50, 1000.0, 6000.0],
        ["H2D", "pack:0", 50, 7000.0, 12000.0],
    ]
    use = link_use_table(lanes, 13_000.0)
    assert use["busy_us"].to_dict() == {
        "compute": 5000.0,
        "recompute": 0.0,
        "stall": 8000.0,
        "D2H": 5000.0,
        "H2D": 5000.0,
    }
    assert use["stretches"].to_list() == [5, 0, 2, 1, 1]
    assert use.loc["stall", "share"] == pytest.approx(8 / 13)


def test_use_over_time_is_the_share_of_each_part() -> None:
    use = link_use_over_time_table(lanes_table(slow_plan()), 13_000.0, parts=5)
    assert use.index.to_list() == [0.0, 2600.0, 5200.0, 7800.0, 10400.0]
    assert use["D2H"].to_list() == pytest.approx([1600 / 2600, 1.0, 800 / 2600, 0.0, 0.0])
    assert use["stall"].to_list() == pytest.approx(
        [600 / 2600, 1.0, 800 / 2600, 2400 / 2600, 1600 / 2600]
    )


@each_plan
def test_lanes_add_up_to_the_step(plan: Plan) -> None:
    timeline = simulate_plan(plan)
    lanes = lanes_table(plan)
    use = link_use_table(lanes, timeline.step_us)
    assert use.loc["compute", "busy_us"] == pytest.approx(plan.certificate.compute_us)
    assert use.loc["recompute", "busy_us"] == pytest.approx(plan.certificate.recompute_us)
    assert use.loc["stall", "busy_us"] == pytest.approx(timeline.total_stall_us)
    for lane, copies in (("D2H", timeline.d2h), ("H2D", timeline.h2d)):
        copying_us = sum(copy.end_us - copy.start_us for copy in copies)
        assert use.loc[lane, "busy_us"] == pytest.approx(copying_us)
    assert lanes["start_us"].min() >= 0
    assert lanes["end_us"].max() <= timeline.step_us
    over_time = link_use_over_time_table(lanes, timeline.step_us, parts=7)
    assert over_time.mean().to_list() == pytest.approx(use["share"].to_list())


def test_the_certificate_is_the_one_of_the_command_line() -> None:
    plan = slow_plan()
    table = certificate_table(plan)
    assert [tuple(row) for row in table.itertuples()] == certificate_rows(plan)
    assert table.loc["stall"].to_list() == ["8.0 ms", "simulated"]


@pytest.mark.parametrize("make", [stalling_plan, periodic_plan])
def test_pictures_say_units_and_that_times_are_simulated(make: Callable[[], Plan]) -> None:
    plan = make()
    step_us = simulate_plan(plan).step_us
    lanes = lanes_table(plan)
    use = link_use_over_time_table(lanes, step_us, parts=20)
    swaps = swaps_figure(swap_times_table(plan), title="plan", step_us=step_us)
    slack = slack_figure(swaps_table(plan), title="plan")
    for figure in (swaps, slack, link_use_figure(use, title="plan")):
        assert png_bytes(figure)
        assert "plan" in words_of(figure)
        assert "(simulated)" in words_of(figure)
    assert "compute goes on to use it" in words_of(swaps)
    swaps = swaps_table(plan)
    late, copies = int((swaps["in_slack_us"] < 0).sum()), len(swaps)
    assert f"copies back: {late} of {copies} late" in words_of(slack)


def test_a_swap_used_at_the_end_of_the_step_is_drawn_there() -> None:
    """And what is used later, in the next step, at its begin."""
    plan = slow_plan()
    step_us = simulate_plan(plan).step_us
    for used_us, drawn_ms in ((step_us, 13.0), (step_us + 2000.0, 2.0), (12_000.0, 12.0)):
        swap_times = swap_times_table(plan).assign(used_us=used_us)
        axes = swaps_figure(swap_times, title="plan", step_us=step_us).axes[0]
        assert np.asarray(axes.lines[0].get_xdata()).tolist() == [drawn_ms, drawn_ms]


def test_no_copy_of_the_picture_of_slack_is_cut_by_its_edge() -> None:
    swaps = swaps_table(periodic_plan())
    axes = slack_figure(swaps, title="plan").axes[0]
    left, right = axes.get_xlim()
    slack = np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines[:2]])
    assert left < slack.min()
    assert slack.max() < right


def test_an_empty_plan_has_tables() -> None:
    plan = empty_plan()
    assert swap_times_table(plan).empty
    lanes = lanes_table(plan)
    assert set(lanes["lane"]) == {LaneName.COMPUTE.value}
