"""A replay that is timed from within: when compute passed each anchor, and when each copy ran.

What it costs is two marks for each anchor and two for each copy: on the emulated device about a
microsecond an anchor, on CUDA an event each. Nothing is waited for until the times are asked for.
"""

from collections import deque
from typing import Any

import torch

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.schedule import Action
from planner.plan.simulate import Timeline
from runtime.lanes.cuda import StreamLane
from runtime.lanes.timed import (
    EventClock,
    HostClock,
    MarkClock,
    MarkedCopy,
    Span,
    StepMarks,
    TimedLane,
)
from runtime.replay.replay import Replay

KEPT_TIMELINES = 32


class TracedReplay(Replay):
    """A replay that keeps the times of its last steps.

    Steps that fell back, or that made what the plan moves, are not kept: they did not do what the
    plan says.
    """

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any) -> None:
        """Takes what `Replay` does."""
        super().__init__(plan, *args, **kwargs)
        self._kept: deque[StepMarks] = deque(maxlen=KEPT_TIMELINES)
        self._marks = StepMarks()
        self._moving: int | None = None
        self._clock: MarkClock
        if self._backend.streams is not None:
            self._clock = EventClock()
            streams = self._backend.streams
            self._moves.d2h = StreamLane(streams, Direction.D2H, self._clock)
            self._moves.h2d = StreamLane(streams, Direction.H2D, self._clock)
        else:
            self._clock = HostClock()
        self._moves.d2h = TimedLane(self._moves.d2h, Direction.D2H, self._on_copy)
        self._moves.h2d = TimedLane(self._moves.h2d, Direction.H2D, self._on_copy)

    def timelines(self) -> tuple[Timeline, ...]:
        """Returns the last replayed steps as they were measured, in order.

        Blocks until their copies have ended.
        """
        return tuple(marks.timeline(self._clock, len(self._plan.slots)) for marks in self._kept)

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Does what `Replay` does, between two marks."""
        slot, arrived = self._slot, self._clock.mark()
        super().on_anchor(key, shown)
        if self._slot != slot:
            self._marks.slots[slot] = (arrived, self._clock.mark())

    def _begin_step(self, *args: Any, **kwargs: Any) -> None:
        self._marks = StepMarks()
        self._moving = None
        super()._begin_step(*args, **kwargs)

    def _end_step(self, *args: Any, **kwargs: Any) -> None:
        follows_plan = self._first is None
        replayed = self._now is not None and self._now.fallback is None and follows_plan
        if replayed:
            self._kept.append(self._marks)
        super()._end_step(*args, **kwargs)

    def _act(self, action: Action) -> None:
        self._moving = action.storage
        super()._act(action)
        self._moving = None

    def _on_copy(self, direction: Direction, span: Span) -> None:
        # What a fallback or the end of the replay brings back is no action of the plan.
        if self._moving is not None:
            self._marks.copies.append(MarkedCopy(self._moving, direction, span))
