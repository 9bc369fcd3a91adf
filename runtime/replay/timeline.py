"""The actions of a step on a timeline: a profiler's, or times that the replay keeps itself.

A range says what the host does at an anchor: `swapplan::swap-out pack:17`, then `release`,
`swap-in` and `await`. The copies themselves show on the device's own rows of the timeline.

Times of its own are when compute passed each anchor, and when each copy ran. They take two marks
for each anchor and two for each copy: on the emulated device about a microsecond an anchor, on
CUDA an event each. Nothing is waited for until the times are asked for.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

import torch
from torch.autograd import profiler

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.schedule import Action, ActionKind
from planner.plan.simulate import Copy, Timeline
from profiles.recording.clocks import Mark, MarkClock
from profiles.schema.errors import SwapplanError
from runtime.lanes.lane import Span

WORDS = {
    ActionKind.SWAP_OUT: "swap-out",
    ActionKind.RELEASE: "release",
    ActionKind.DROP: "drop",
    ActionKind.SWAP_IN: "swap-in",
    ActionKind.AWAIT: "await",
    ActionKind.REBUILD: "rebuild",
}

KEPT_TIMELINES = 32

Act = Callable[[Action, int], None]
"""Does an action of the schedule at the anchor of a slot."""


class Ranges(Enum):
    """Whose timeline shows the actions of a replay."""

    TORCH_PROFILER = "torch.profiler"
    """`torch.profiler`, in steps that begin while it records; the others pay nothing for it."""
    NVTX = "NVTX"
    """NVIDIA Nsight Systems, in every step; needs CUDA."""


class Tracing:
    """Shows the actions of one plan on a timeline.

    Attributes:
        times: Keeps the times of steps; None if they are not traced.
    """

    def __init__(self, plan: Plan, ranges: Ranges, times: "StepTimes | None") -> None:
        """Takes the names of the plan's storages.

        Raises:
            SwapplanError: NVTX is asked for and there is no CUDA.
        """
        if ranges is Ranges.NVTX and not torch.cuda.is_available():
            raise SwapplanError(
                "Ranges.NVTX needs a CUDA device, which this machine does not have. Use "
                "Ranges.TORCH_PROFILER."
            )
        self.times = times
        self._ranges = ranges
        self._names = {storage.id: storage.name for storage in plan.storages}
        self._name_of = cache(self._make_name)

    def begin(self, act: Act) -> Act:
        """Returns what does an action in the step that begins now: in a range, if one is wanted."""
        if self.times is not None:
            act = self.times.begin(act)
        if self._ranges is Ranges.NVTX:
            return self._within(torch.cuda.nvtx.range, act)
        if profiler._is_profiler_enabled:
            return self._within(profiler.record_function, act)
        return act

    def _within(self, new_range: Callable[[str], AbstractContextManager[object]], act: Act) -> Act:
        def ranged(action: Action, slot: int) -> None:
            with new_range(self._name_of(action)):
                act(action, slot)

        return ranged

    def _make_name(self, action: Action) -> str:
        return f"swapplan::{WORDS[action.kind]} {self._names[action.storage]}"


@dataclass(frozen=True)
class MarkedCopy:
    """A copy that a step issued, of a storage known by its id in the plan."""

    storage: int
    direction: Direction
    span: Span


@dataclass
class StepMarks:
    """The marks of one step.

    [Note: slots that are not reported] A replay passes over slots where it has nothing to do (see
    `runtime.replay.stepper`). Such a slot has no marks: its ops count to the last slot that was
    reported before it, and it begins and ends where that one ends.

    Attributes:
        slots: When compute got to the anchor of each slot that was reported, and when it went on.
        copies: What was issued, in order.
    """

    slots: dict[int, tuple[Mark, Mark]] = field(default_factory=dict)
    copies: list[MarkedCopy] = field(default_factory=list)

    def timeline(self, clock: MarkClock, slot_count: int) -> Timeline:
        """Returns the step as it was measured; blocks until its last copy has ended.

        Times count from the first anchor. A slot's stall is all that passes at its anchor: the
        wait for copies, and what the runtime itself takes there. Of the step's slots the first and
        the last must have been reported.
        """
        origin, _ = self.slots[0]
        starts_us: list[float] = []
        stalls_us: list[float] = []
        arrived_us = 0.0
        for slot in reversed(range(slot_count)):
            start_us = arrived_us
            if slot in self.slots:
                arrived, went_on = self.slots[slot]
                arrived_us = clock.us_between(origin, arrived)
                start_us = clock.us_between(origin, went_on)
            starts_us.append(start_us)
            stalls_us.append(start_us - arrived_us)
        return Timeline(
            start_us=tuple(reversed(starts_us)),
            stall_us=tuple(reversed(stalls_us)),
            d2h=self._copies(Direction.D2H, origin, clock),
            h2d=self._copies(Direction.H2D, origin, clock),
            step_us=starts_us[0],
            total_stall_us=sum(reversed(stalls_us)),
        )

    def _copies(self, direction: Direction, origin: Mark, clock: MarkClock) -> tuple[Copy, ...]:
        return tuple(
            Copy(copy.storage, *(clock.us_between(origin, mark) for mark in copy.span()))
            for copy in self.copies
            if copy.direction is direction
        )


class StepTimes:
    """The times of a replay's last steps.

    Steps that fell back, or that made what the plan moves, are not kept: they did not do what the
    plan says.

    Attributes:
        clock: Sets the marks.
    """

    def __init__(self, clock: MarkClock) -> None:
        self.clock = clock
        self._kept: deque[StepMarks] = deque(maxlen=KEPT_TIMELINES)
        self._marks = StepMarks()
        self._moving: int | None = None

    def begin(self, act: Act) -> Act:
        """Begins a step; returns what does its actions, their copies being known as the plan's."""
        self._marks = StepMarks()
        self._moving = None

        def marked(action: Action, slot: int) -> None:
            self._moving = action.storage
            act(action, slot)
            self._moving = None

        return marked

    def pass_anchor(self, slot: int, arrived: Mark) -> None:
        """Compute goes on from the anchor of a slot, where it `arrived` at that mark."""
        self._marks.slots[slot] = (arrived, self.clock.mark())

    def on_copy(self, direction: Direction, span: Span) -> None:
        """Keeps a copy that has been issued."""
        # What a fallback or the end of the replay brings back is no action of the plan.
        if self._moving is not None:
            self._marks.copies.append(MarkedCopy(self._moving, direction, span))

    def keep(self) -> None:
        """The step has followed the plan to its end."""
        self._kept.append(self._marks)

    def timelines(self, slot_count: int) -> tuple[Timeline, ...]:
        """Returns the last steps, in order; blocks until their copies have ended."""
        return tuple(marks.timeline(self.clock, slot_count) for marks in self._kept)


def typical(measured: Sequence[Timeline]) -> Timeline:
    """Returns the step of median duration, of one at least; of two in the middle the shorter."""
    by_duration = sorted(measured, key=lambda timeline: timeline.step_us)
    return by_duration[(len(by_duration) - 1) // 2]
