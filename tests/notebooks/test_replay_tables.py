"""What `notebooks/predicted_vs_measured.ipynb` shows, on a step measured by hand."""

import pytest
import torch

from analysis.measured_steps import measured_steps
from analysis.replay_plots import agreement_figure, drift_figure, lanes_beside_figure
from analysis.step_parts import copy_times_table, slot_durations_table, step_parts_table
from planner.plan.simulate import Copy, Timeline, simulate_plan
from planner.report.lanes import lanes_table
from planner.report.plots import png_bytes
from planner.report.tables import slot_times_table
from planner.solving import solve
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from runtime import FallbackWarning
from runtime.replay.timeline import typical
from tests.support.planning.figures import words_of
from tests.support.planning.one_swap import slow_plan as plan
from tests.support.planning.plans import periodic_plan
from tests.support.planning.toys import sandwich
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import everything_away_plan


def measured(end_us: float = 13_260.0) -> Timeline:
    """Slot 3 is passed over: its time counts to slot 2."""
    return Timeline(
        start_us=(10.0, 1110.0, 6210.0, 8210.0, 12_220.0, end_us),
        stall_us=(10.0, 50.0, 4100.0, 0.0, 4010.0, 20.0),
        d2h=(Copy(0, 1100.0, 6200.0),),
        h2d=(Copy(0, 7200.0, 12_210.0),),
        step_us=end_us,
        total_stall_us=8190.0,
    )


def test_durations_are_what_lies_between_two_anchors() -> None:
    durations = slot_durations_table(slot_times_table(plan(), [measured()]))
    assert durations.index.to_list() == [0, 1, 2, 4, 5]
    assert durations["simulated_us"].to_list() == [1000.0, 1000.0, 2000.0, 1000.0, 0.0]
    assert durations["measured_us"].to_list() == [1050.0, 1000.0, 2000.0, 1020.0, 0.0]


def test_a_slot_that_is_passed_over_counts_to_the_one_before() -> None:
    """Slot 3 begins and ends where slot 2 ends; compute gets to slot 4 at 8210."""
    times = slot_times_table(plan(), [measured()])
    assert times["measured_start_us"][3] == times["measured_start_us"][4] - 4010.0
    assert "anchor:3" not in slot_durations_table(times)["anchor"].to_list()


def later(slot_1_us: float, slot_2_us: float) -> Timeline:
    """The step where slots 1 and 2 begin that much later than after a slot 0 of 11 ms."""
    begins_us = (16_210.0, 18_210.0, 22_220.0, 23_260.0)
    starts_us = (10.0, 11_110.0 + slot_1_us, *(begin_us + slot_2_us for begin_us in begins_us))
    stalls_us = (10.0, 50.0, 4100.0 - slot_1_us + slot_2_us, 0.0, 4010.0, 20.0)
    return Timeline(
        **{
            **vars(measured()),
            "start_us": starts_us,
            "stall_us": stalls_us,
            "step_us": starts_us[-1],
            "total_stall_us": sum(stalls_us),
        }
    )


def test_no_slot_of_several_steps_ends_before_it_begins() -> None:
    """The median stall at anchor 2 is longer than what lies between the median starts around it."""
    times = slot_times_table(plan(), [later(-3000.0, 0.1), later(0.0, 3000.3), later(3000.0, -1e3)])
    durations = slot_durations_table(times)
    assert durations.index.to_list() == [0, 1, 2, 4, 5]
    assert durations["measured_us"].min() >= 0
    assert times["measured_stall_us"].min() >= 0
    parts_us = durations["measured_us"].sum() + times["measured_stall_us"].sum()
    assert parts_us == pytest.approx(times["measured_start_us"].iloc[-1])


def test_parts_add_up_to_the_step() -> None:
    slots = slot_times_table(plan(), [measured()])
    copies = copy_times_table(plan(), [measured()])
    parts = step_parts_table(plan(), slots, copies)
    assert parts["simulated_us"].to_dict() == {
        "step": 13_000.0,
        "compute": 5000.0,
        "waits for copies": 8000.0,
        "the runtime itself": 0.0,
        "copies to the host": 5000.0,
        "copies back": 5000.0,
    }
    assert parts["measured_us"].to_dict() == {
        "step": 13_260.0,
        "compute": 5070.0,
        "waits for copies": 8110.0,
        "the runtime itself": 80.0,
        "copies to the host": 5100.0,
        "copies back": 5010.0,
    }
    assert parts["ratio"]["step"] == 1.02
    assert parts["ratio"].isna().to_dict()["the runtime itself"]


def test_copies_stand_beside_each_other_as_medians() -> None:
    late = Timeline(**{**vars(measured()), "d2h": (Copy(0, 1300.0, 6800.0),)})
    later = Timeline(**{**vars(measured()), "d2h": (Copy(0, 1200.0, 6900.0),)})
    copies = copy_times_table(plan(), [measured(), late, later])
    assert copies.to_numpy().tolist() == [
        ["D2H", "pack:0", 50, 1000.0, 1200.0, 5000.0, 5500.0],
        ["H2D", "pack:0", 50, 7000.0, 7200.0, 5000.0, 5010.0],
    ]


def test_a_step_as_it_was_simulated_agrees_with_itself() -> None:
    """No slot of it takes no time but the last, so none counts to another."""
    periodic = periodic_plan()
    step = simulate_plan(periodic)
    slots, copies = slot_times_table(periodic, [step]), copy_times_table(periodic, [step])
    durations = slot_durations_table(slots)
    assert len(durations) == len(periodic.slots)
    assert (durations["simulated_us"] == durations["measured_us"]).all()
    assert (copies["simulated_us"] == copies["measured_us"]).all()
    parts = step_parts_table(periodic, slots, copies)
    assert parts["simulated_us"]["compute"] == pytest.approx(periodic.certificate.compute_us)
    assert (parts["ratio"].dropna() == 1.0).all()


def test_the_typical_step_is_the_median_or_the_shorter_of_two() -> None:
    steps = [measured(end_us) for end_us in (15_000.0, 13_000.0, 14_000.0, 16_000.0)]
    assert typical(steps).step_us == 14_000.0
    assert typical(steps[:3]).step_us == 14_000.0


def test_pictures_say_what_was_measured_and_what_was_simulated() -> None:
    slots = slot_times_table(plan(), [measured()])
    copies = copy_times_table(plan(), [measured()])
    lanes = lanes_beside_figure(lanes_table(plan()), lanes_table(plan(), measured()), title="step")
    assert "simulated: 13.0 ms" in words_of(lanes)
    assert "measured: 13.3 ms" in words_of(lanes)
    drift = drift_figure(slots, title="step")
    assert "measured - simulated, ms" in words_of(drift)
    agreement = agreement_figure(slot_durations_table(slots), copies, title="step")
    assert "simulated, ms" in words_of(agreement)
    assert "measured, ms" in words_of(agreement)
    for figure in (lanes, drift, agreement):
        assert png_bytes(figure)


def test_an_axis_of_less_than_a_decade_has_plain_numbers() -> None:
    slots, copies = slot_times_table(plan(), [measured()]), copy_times_table(plan(), [measured()])
    figure = agreement_figure(slot_durations_table(slots), copies, title="step")
    figure.canvas.draw()
    named = [text.get_text() for text in figure.axes[1].get_xticklabels(which="minor")]
    assert {"4", "6"} <= set(named)
    assert not any("$" in name for name in named)


def test_an_empty_plan_has_pictures_too() -> None:
    idle = solve(sandwich(), budget_bytes=1000)
    step = simulate_plan(idle)
    slots, copies = slot_times_table(idle, [step]), copy_times_table(idle, [step])
    assert step_parts_table(idle, slots, copies)["simulated_us"]["copies back"] == 0.0
    assert png_bytes(agreement_figure(slot_durations_table(slots), copies, title="step"))


def test_steps_that_count_come_after_those_that_do_not() -> None:
    workload = BUILDERS["unet3d"]()
    steps = measured_steps(everything_away_plan("unet3d"), workload, steps=2, warmup_steps=2)
    assert len(steps) == 2
    assert all(len(step.d2h) > 0 for step in steps)


def test_a_step_that_was_not_replayed_is_no_measurement() -> None:
    workload = BUILDERS["unet3d"]()

    def nothing() -> torch.Tensor:
        return torch.zeros(())

    idle = Workload(model=workload.model, optimizer=workload.optimizer, step=nothing)
    plan = everything_away_plan("unet3d")
    with pytest.raises(PlanMismatchError, match="never updates"):
        measured_steps(plan, idle, steps=1)
    with (
        pytest.warns(FallbackWarning),
        pytest.raises(PlanMismatchError, match="The step was not replayed: anchor 1 is 'end'"),
    ):
        measured_steps(plan, idle, steps=1, warmup_steps=9)
