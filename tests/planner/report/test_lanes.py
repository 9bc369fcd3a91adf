"""What each lane does when, beyond what `tests.notebooks.test_plan_tables` adds up."""

from planner.plan.simulate import Timeline, simulate_plan
from planner.report.lanes import lanes_table
from tests.support.planning.one_swap import slow_plan
from tests.support.planning.plans import periodic_plan


def test_a_copy_that_goes_on_in_the_next_step_is_two_stretches() -> None:
    plan = periodic_plan()
    lanes = lanes_table(plan)
    parts = lanes[(lanes["lane"] == "D2H") & (lanes["what"] == "state:4")]
    step_us = simulate_plan(plan).step_us
    assert parts["end_us"].to_list() == [step_us, parts["end_us"].iloc[1]]
    assert parts["start_us"].iloc[1] == 0.0
    assert (parts["end_us"] - parts["start_us"]).sum() == 128.0


def test_lanes_of_a_measured_step() -> None:
    """What passes at an anchor is a stall, and slots take what they took."""
    plan = slow_plan()
    measured = Timeline(
        start_us=(1.0, 1100.0, 2500.0, 3500.0, 4500.0, 5500.0),
        stall_us=(1.0, 0.0, 300.0, 0.0, 0.0, 0.0),
        d2h=(),
        h2d=(),
        step_us=5500.0,
        total_stall_us=301.0,
    )
    lanes = lanes_table(plan, measured)
    assert lanes[["lane", "start_us", "end_us"]].to_numpy().tolist() == [
        ["stall", 0.0, 1.0],
        ["compute", 1.0, 1100.0],
        ["compute", 1100.0, 2200.0],
        ["stall", 2200.0, 2500.0],
        ["compute", 2500.0, 3500.0],
        ["compute", 3500.0, 4500.0],
        ["compute", 4500.0, 5500.0],
    ]
