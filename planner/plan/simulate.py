"""Simulates a step under a schedule: three lanes, whole-storage copies, first in first out.

Compute walks the slots. At an anchor it does that anchor's actions in order, and then runs the
slot. A copy starts when its lane is free and it has been issued (`planner.plan.lanes`). A release
or an await that finds its copy unfinished makes compute wait: that wait is the slot's stall. All
figures are simulated.

Swaps may wrap round the step boundary, so steps are simulated one after the other until one begins
with the same copies under way as the one before. No time passes between steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from planner.plan.copy_times import DIRECTIONS, DMA_ALONE, Engines, lane_loads
from planner.plan.lanes import Copy, Direction, Lane, LaneLoad, Lanes, lanes_of, same_unfinished
from planner.plan.plan import Plan
from planner.plan.schedule import Action, ActionKind, Schedule, lower
from profiles.schema.profile import Link

__all__ = ["Copy", "Timeline", "simulate", "simulate_plan"]

MAX_STEPS = 32
"""Steps that do not settle by then alternate; the last one stands for them."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A simulated step, of many that repeat. Times count from its begin.

    Attributes:
        start_us: When each slot's ops start, after the waits at its anchor.
        stall_us: How long compute waits at each slot's anchor.
        d2h: Copies to the host issued in the step, in order; the last may end in the next one.
        h2d: Copies back, likewise.
        step_us: When the last slot ends.
        total_stall_us: All waits together.
    """

    start_us: tuple[float, ...]
    stall_us: tuple[float, ...]
    d2h: tuple[Copy, ...]
    h2d: tuple[Copy, ...]
    step_us: float
    total_stall_us: float


def simulate(
    *,
    durations_us: Sequence[float],
    sizes_bytes: Mapping[int, int],
    link: Link,
    schedule: Schedule,
    engines: Engines = DMA_ALONE,
) -> Timeline:
    """Simulates a step that repeats; durations are those of its slots with nothing moved."""
    lanes = lanes_of(link)
    loads = lane_loads(schedule, sizes_bytes, link, engines)
    elapsed_us = (0.0, *accumulate(durations_us))
    begin_us = end_us = 0.0
    unfinished = lanes.unfinished_us(begin_us)
    steps = 0
    while True:
        steps += 1
        begin_us, before = end_us, unfinished
        starts_us, stalls_us = _walk(schedule, elapsed_us, loads, lanes, begin_us)
        end_us = begin_us + elapsed_us[-1] + sum(stalls_us)
        unfinished = lanes.unfinished_us(end_us)
        if steps == MAX_STEPS or same_unfinished(before, unfinished):
            break
    lanes.finish()
    return Timeline(
        start_us=tuple(start_us - begin_us for start_us in starts_us),
        stall_us=tuple(stalls_us),
        d2h=_last_of(lanes.d2h, steps, begin_us),
        h2d=_last_of(lanes.h2d, steps, begin_us),
        step_us=elapsed_us[-1] + sum(stalls_us),
        total_stall_us=sum(stalls_us),
    )


def simulate_plan(plan: Plan) -> Timeline:
    """Simulates one step under a plan, on the link it was made for."""
    return simulate(
        durations_us=[slot.duration_us for slot in plan.slots],
        sizes_bytes=plan.sizes_bytes,
        link=plan.link,
        schedule=lower(plan),
        engines=plan.engines,
    )


def _walk(
    schedule: Schedule,
    elapsed_us: Sequence[float],
    loads: Sequence[Sequence[LaneLoad | None]],
    lanes: Lanes,
    begin_us: float,
) -> tuple[list[float], list[float]]:
    """Plays one step; returns when each slot's ops start and what compute waited before them."""
    starts_us: list[float] = []
    stalls_us: list[float] = []
    waited_us = 0.0
    for t, actions in enumerate(schedule):
        # Not summed slot by slot: rounding must not grow with the length of the step.
        arrival_us = begin_us + elapsed_us[t] + waited_us
        now_us = arrival_us
        for action, load in zip(actions, loads[t], strict=True):
            now_us = _act(action, load, now_us, lanes)
        stalls_us.append(now_us - arrival_us)
        waited_us += now_us - arrival_us
        starts_us.append(now_us)
    return starts_us, stalls_us


def _act(action: Action, load: LaneLoad | None, now_us: float, lanes: Lanes) -> float:
    """Does one action; returns the time after it."""
    kind, storage = action
    if load is not None:
        lanes.issue(DIRECTIONS[kind], storage, load, now_us)
        return now_us
    if kind in (ActionKind.DROP, ActionKind.REBUILD):
        # What is run again is part of the slot's duration.
        return now_us
    direction = Direction.D2H if kind is ActionKind.RELEASE else Direction.H2D
    return max(now_us, lanes.end_us(direction, storage, now_us))


def _last_of(lane: Lane, step_count: int, begin_us: float) -> tuple[Copy, ...]:
    """The copies that the last of some steps issued, in its own time; all issue the same."""
    first = len(lane.copies) // step_count * (step_count - 1)
    return tuple(
        Copy(storage, start_us - begin_us, end_us - begin_us)
        for storage, start_us, end_us in lane.copies[first:]
    )
