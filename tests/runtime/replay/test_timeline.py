"""Measured steps: every anchor and every copy of the plan, each copy within its own trip."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.simulate import Copy, Timeline
from profiles.hooks.anchors import is_update
from profiles.recording.clocks import EventClock, HostClock
from profiles.schema.link import CopyMethod
from runtime import FallbackWarning, LoadedPlan
from runtime.host.host_pool import HostPool
from runtime.lanes.lane import Span, TimedLane
from runtime.lanes.streams import StreamLane
from runtime.replay.timeline import MarkedCopy, StepMarks
from tests.support.training.fake_streams import FakeStreams
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import everything_away_plan, without_update
from tests.support.training.timelines import (
    assert_all_is_there,
    assert_copies_keep_to_their_trips,
    assert_time_goes_on,
)

STEPS = 3


@pytest.fixture(scope="module", name="plan")
def _plan() -> Plan:
    return everything_away_plan("unet3d")


@pytest.fixture(scope="module", name="timelines")
def _timelines(plan: Plan) -> tuple[Timeline, ...]:
    """The steps after the one that makes the lazy optimizer states."""
    workload = BUILDERS["unet3d"]()
    with LoadedPlan(plan).attach_traced(workload.model, workload.optimizer) as replay:
        for _ in range(STEPS + 1):
            with replay.step() as statistics:
                workload.step()
            assert statistics.fallback is None
        return replay.timelines()


def test_every_anchor_and_every_copy_is_there(plan: Plan, timelines: tuple[Timeline, ...]) -> None:
    assert len(timelines) == STEPS
    for timeline in timelines:
        assert_all_is_there(plan, timeline)


def test_time_goes_on_and_lanes_carry_one_copy_at_a_time(timelines: tuple[Timeline, ...]) -> None:
    for timeline in timelines:
        assert_time_goes_on(timeline)


def test_a_copy_runs_between_its_two_anchors(plan: Plan, timelines: tuple[Timeline, ...]) -> None:
    for timeline in timelines:
        assert_copies_keep_to_their_trips(plan, timeline)


def test_a_step_that_nobody_watches_has_every_slot_too(plan: Plan) -> None:
    """A plan without swaps acts nowhere, so it hears no update inside the optimizer step."""
    idle = plan.model_copy(update={"swaps": (), "host_pool_bytes": 0, "budget_bytes": 1 << 40})
    workload = BUILDERS["unet3d"]()
    with LoadedPlan(idle).attach_traced(workload.model, workload.optimizer) as replay:
        for _ in range(2):
            with replay.unwatched_step() as statistics:
                workload.step()
            assert statistics.fallback is None
        _, timeline = replay.timelines()
    assert len(timeline.start_us) == len(plan.slots)
    assert list(timeline.start_us) == sorted(timeline.start_us)
    assert all(stall_us >= 0 for stall_us in timeline.stall_us)
    unheard = [t for t, slot in enumerate(plan.slots) if is_update(slot.anchor)]
    assert unheard
    assert all(timeline.stall_us[t] == 0 for t in unheard)


def test_a_step_that_fell_back_or_skipped_its_update_is_no_measurement(plan: Plan) -> None:
    workload = BUILDERS["unet3d"]()
    with LoadedPlan(plan).attach_traced(workload.model, workload.optimizer) as replay:
        with replay.step():
            workload.step()
        with pytest.warns(FallbackWarning), replay.step():
            workload.optimizer.step()
            workload.step()
        with replay.step():
            workload.step()
        with replay.step(), without_update(workload.optimizer):
            workload.step()
        assert [step.fallback is None for step in replay.steps] == [True, False, True, True]
        assert replay.shortcuts == 1
        assert len(replay.timelines()) == 1, "nor is the one that makes the states, or skips"


class FakeEvent:
    """An event on a device whose clock is a count of what it was asked for."""

    now = 0

    def __init__(self) -> None:
        self.at = -1
        self.stream: int | None = None

    def record(self, stream: int | None = None) -> None:
        FakeEvent.now += 1
        self.at, self.stream = FakeEvent.now, stream

    def synchronize(self) -> None:
        assert self.at >= 0, "waited for before it was recorded"

    def elapsed_time(self, other: "FakeEvent") -> float:
        return float(other.at - self.at)


def test_on_streams_a_copy_is_marked_on_its_own_lane() -> None:
    streams = FakeStreams()
    spans: list[Span] = []
    marked = StreamLane(streams, Direction.H2D, EventClock(FakeEvent))
    lane = TimedLane(marked, Direction.H2D, lambda _, span: spans.append(span))
    pool = HostPool(24)
    storages = [torch.zeros(8, dtype=torch.uint8).untyped_storage() for _ in range(3)]
    for number, storage in enumerate(storages):
        lane.issue(storage, pool.stretch(8 * number, 8), CopyMethod.BATCH_KERNEL)
    assert [entry[0] for entry in streams.log] == [], "they board one launch"
    lane.flush()
    assert [entry for entry in streams.log if entry[0] == "H2D"] == [("H2D", 1)] * 3
    assert streams.launches == [(CopyMethod.BATCH_KERNEL, 3)]
    ((began, ended),) = {span() for span in spans}
    assert (began.stream, ended.stream) == (1, 1)
    assert ended.at == began.at + 1


def marks(at: Callable[[int], Any]) -> StepMarks:
    """Three slots, of which two are heard, at 10 to 12 and 20 to 25, and a copy each way."""
    return StepMarks(
        slots={0: (at(10), at(12)), 2: (at(20), at(25))},
        copies=[
            MarkedCopy(7, Direction.D2H, lambda: (at(11), at(19))),
            MarkedCopy(7, Direction.H2D, lambda: (at(21), at(30))),
        ],
    )


def event_at(ms: int) -> FakeEvent:
    event = FakeEvent()
    event.at = ms
    return event


EXPECTED = Timeline(
    start_us=(2.0, 10.0, 15.0),
    stall_us=(2.0, 0.0, 5.0),
    d2h=(Copy(7, 1.0, 9.0),),
    h2d=(Copy(7, 11.0, 20.0),),
    step_us=15.0,
    total_stall_us=7.0,
)


def test_marks_of_the_host_add_up() -> None:
    assert marks(lambda us: us * 1000).timeline(HostClock(), 3) == EXPECTED


def test_marks_of_a_device_add_up() -> None:
    """Events count in milliseconds."""
    found = marks(event_at).timeline(EventClock(FakeEvent), 3)
    assert found.start_us == tuple(1000 * us for us in EXPECTED.start_us)
    assert found.h2d == (Copy(7, 11_000.0, 20_000.0),)
