"""Steps that are traced on the device: what its events say, and what its log has."""

from typing import NamedTuple

import pytest
import torch

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.simulate import Copy, Timeline
from runtime import LoadedPlan
from tests.device.accelerator import accelerator
from tests.device.races import Entry, beside
from tests.device.scenarios import LINK, MOST_DELAY_US, SCENARIOS, plan_of
from tests.device.trainings import begun
from tests.device.trial_device import trial_device
from tests.support.training.timelines import (
    assert_all_is_there,
    assert_copies_keep_to_their_trips,
    assert_time_goes_on,
)

STEPS = 3
SERIAL, OVERLAPPING = "each step", "overlapping"
NAMES = {Direction.D2H: "copy to host", Direction.H2D: "copy to device"}
ROUNDING_US = 1e-3


class Traced(NamedTuple):
    """A step as it was traced, and as the device has it."""

    plan: Plan
    timeline: Timeline
    log: list[Entry]
    spans: list[tuple[int, float, float]]

    def durations_us(self, direction: Direction) -> list[float]:
        """Of the copies that way, in order, by the device's own clock."""
        name = NAMES[direction]
        return [end - begin for entry, begin, end in self.spans if self.log[entry].name == name]


def traced(scenario: str) -> Traced:
    """The last of some steps."""
    plan, workload = plan_of(scenario), begun(SCENARIOS[scenario].make)
    with (
        trial_device().disturbed(1, LINK, MOST_DELAY_US) as log,
        LoadedPlan(plan).attach_traced(workload.model, workload.optimizer) as replay,
    ):
        for _ in range(STEPS):
            torch.accelerator.synchronize()
            accelerator().log(True)
            with replay.step() as statistics:
                workload.step()
            assert statistics.fallback is None
        *earlier, timeline = replay.timelines()
        assert len(earlier) == STEPS - 2, "all but the one that makes what the plan moves"
        spans = accelerator().spans()
    return Traced(plan, timeline, log, spans)


@pytest.mark.parametrize("scenario", [SERIAL, OVERLAPPING])
def test_a_traced_step_is_the_one_that_the_device_has_run(scenario: str) -> None:
    step = traced(scenario)
    assert_all_is_there(step.plan, step.timeline)
    assert_time_goes_on(step.timeline)
    assert_copies_keep_to_their_trips(step.plan, step.timeline)
    assert_copies_are_those_of_the_device(step, Direction.D2H, step.timeline.d2h)
    assert_copies_are_those_of_the_device(step, Direction.H2D, step.timeline.h2d)
    copies = {entry.name for entry, _ in beside(step.log)}
    assert copies == (set() if scenario == SERIAL else set(NAMES.values()))


def assert_copies_are_those_of_the_device(
    step: Traced, direction: Direction, copies: tuple[Copy, ...]
) -> None:
    """Their events are recorded right before and right behind them."""
    ran_us = step.durations_us(direction)
    assert len(copies) == len(ran_us)
    for copy, took_us in zip(copies, ran_us, strict=True):
        assert copy.end_us - copy.start_us >= took_us - ROUNDING_US
