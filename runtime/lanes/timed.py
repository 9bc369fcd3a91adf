"""Points of a step marked in time, on the host or on a device, and what they add up to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from planner.plan.lanes import Direction
from planner.plan.simulate import Copy, Timeline
from profiles.recording.clocks import Mark, MarkClock
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import CopyInFlight, CopyLane

Span = Callable[[], tuple[Mark, Mark]]
"""Returns when a copy was begun and ended, once it has."""


class TimedLane:
    """A lane that reports the span of each copy it issues."""

    def __init__(
        self, lane: CopyLane, direction: Direction, report: Callable[[Direction, Span], None]
    ) -> None:
        self._lane = lane
        self._direction = direction
        self._report = report

    def issue(
        self, storage: torch.UntypedStorage, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> CopyInFlight:
        """Queues a copy and reports it."""
        copy = self._lane.issue(storage, host, engine)
        self._report(self._direction, copy.span)
        return copy

    def flush(self) -> None:
        """Sends off the pending batch."""
        self._lane.flush()

    def finish(self) -> None:
        """Blocks the host until all copies have ended."""
        self._lane.finish()

    def close(self) -> None:
        """Ends the lane."""
        self._lane.close()


@dataclass(frozen=True)
class MarkedCopy:
    """A copy that a step issued.

    Attributes:
        storage: Id of the storage.
        direction: Which way.
        span: When it ran.
    """

    storage: int
    direction: Direction
    span: Span


@dataclass
class StepMarks:
    """The marks of one step.

    [Note: slots that are not reported] A replay passes over slots where it has nothing to do (see
    `runtime.replay.replay`). Such a slot has no marks: its ops count to the last slot that was
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
        wait for copies, and what the runtime itself takes there.

        Args:
            clock: What set the marks.
            slot_count: Number of slots of the step; the first and the last were reported.
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
