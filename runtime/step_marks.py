"""Points of a step marked in time, on the host or on a device, and what they add up to.

Marking must not wait for anything: marks are set while the step runs and compared afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from planner.simulate import Copy, Timeline
from runtime.lanes import NS_PER_US, Direction
from runtime.streams import Stream

US_PER_MS = 1_000
Mark = Any
"""A point in time; only the clock that set it can read it."""

Span = Callable[[], tuple[Mark, Mark]]
"""Tells when a copy was begun and ended, once it has."""


class MarkClock(Protocol):
    """Sets marks and compares them."""

    def mark(self, stream: Stream | None = None) -> Mark:
        """Marks the time at which a stream, or compute if None, gets to this point."""

    def us_between(self, one: Mark, other: Mark) -> float:
        """Returns the microseconds between two marks, once both are in the past."""


class HostClock:
    """The host's own clock: on the emulated device compute is the host."""

    def mark(self, stream: Stream | None = None) -> int:
        """Notes the time."""
        return time.perf_counter_ns()

    def us_between(self, one: int, other: int) -> float:
        """Subtracts."""
        return (other - one) / NS_PER_US


def _timed_event() -> Any:
    return torch.cuda.Event(enable_timing=True)


class EventClock:
    """Events with timing: the device notes the time when its stream gets to them."""

    def __init__(self, new_event: Callable[[], Any] = _timed_event) -> None:
        self._new_event = new_event

    def mark(self, stream: Stream | None = None) -> Any:
        """Records an event on a stream; on the current one if None."""
        event = self._new_event()
        event.record() if stream is None else event.record(stream)
        return event

    def us_between(self, one: Any, other: Any) -> float:
        """Waits on the host until the device is past both."""
        one.synchronize()
        other.synchronize()
        return one.elapsed_time(other) * US_PER_MS


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

    Attributes:
        anchors: Two for each anchor: when compute got there, and when it went on.
        copies: What was issued, in order.
    """

    anchors: list[Mark] = field(default_factory=list)
    copies: list[MarkedCopy] = field(default_factory=list)

    def timeline(self, clock: MarkClock) -> Timeline:
        """Returns the step as it was measured; blocks until its last copy has ended.

        Times count from the first anchor. A slot's stall is all that passes at its anchor: the
        wait for copies, and what the runtime itself takes there.
        """
        origin, *_ = self.anchors
        at_us = [clock.us_between(origin, mark) for mark in self.anchors]
        start_us = tuple(at_us[1::2])
        stall_us = tuple(on - there for there, on in zip(at_us[::2], start_us, strict=True))
        return Timeline(
            start_us=start_us,
            stall_us=stall_us,
            d2h=self._copies(Direction.D2H, origin, clock),
            h2d=self._copies(Direction.H2D, origin, clock),
            step_us=start_us[-1],
            total_stall_us=sum(stall_us),
        )

    def _copies(self, direction: Direction, origin: Mark, clock: MarkClock) -> tuple[Copy, ...]:
        copies = []
        for copy in self.copies:
            if copy.direction is direction:
                began, ended = copy.span()
                times_us = clock.us_between(origin, began), clock.us_between(origin, ended)
                copies.append(Copy(copy.storage, *times_us))
        return tuple(copies)
