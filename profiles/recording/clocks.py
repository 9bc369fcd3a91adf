"""Clocks that time a step on its device, and what stamps them at its ops and anchors.

A clock is stamped, or sets marks, at points of the program and is asked for the times between them
at the end, so that nothing waits for the device while it is being timed.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import OpWatcher
from profiles.schema.units import NS_PER_US, US_PER_MS


class Clock(Protocol):
    """Times points of a program on the device that runs it."""

    def start(self) -> None:
        """Forgets all stamps; whatever the device had to do before is over."""

    def stamp(self) -> None:
        """Notes the time at which the device gets to this point."""

    def intervals_us(self) -> list[float]:
        """Returns the times from each stamp to the next, once the device is done."""


_timed_event = partial(torch.Event, enable_timing=True)


class CpuClock:
    """The processor's own clock: an op is over when its call returns."""

    def __init__(self) -> None:
        self._times_ns: list[int] = []

    def start(self) -> None:
        """Forgets all stamps."""
        self._times_ns = []

    def stamp(self) -> None:
        """Notes the time."""
        self._times_ns.append(time.perf_counter_ns())

    def intervals_us(self) -> list[float]:
        """Returns the times from each stamp to the next."""
        return [(b - a) / NS_PER_US for a, b in pairwise(self._times_ns)]


class DeviceClock:
    """Events on a device's current stream, one per stamp.

    [Note: host-bound time] An event is stamped when the stream gets to it. Where the device is
    busy, the interval is the time of the kernels between two events. Where the host is too slow to
    keep it busy, the stream is empty, the event is stamped as soon as it is issued, and the
    interval holds the time the host took. So the intervals of a step add up to its whole time on
    the device, whichever of the two is slower. The device is idle when the first stamp is made:
    the launch of the first kernel, which in a row of steps hides behind the step before, counts.

    [Note: stamps on several streams] The current stream is asked for anew at each stamp: a step may
    change it, and backward runs on another thread, where it is that of the forward. Events on two
    streams need not be reached in the order they were issued. One that is reached before another
    that was issued earlier adds no time, so that intervals are never negative and still add up.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        new_event: Callable[[], Any] = _timed_event,
        current_stream: Callable[[torch.device], Any] = torch.accelerator.current_stream,
        synchronize: Callable[[torch.device], None] = torch.accelerator.synchronize,
    ) -> None:
        self._device = device
        self._new_event = new_event
        self._current_stream = current_stream
        self._synchronize = synchronize
        self._events: list[Any] = []
        self._stamped = 0

    def start(self) -> None:
        """Waits for the device and forgets all stamps."""
        self._synchronize(self._device)
        self._stamped = 0

    def stamp(self) -> None:
        """Records an event on the current stream; those of an earlier round are used again."""
        if self._stamped == len(self._events):
            self._events.append(self._new_event())
        self._events[self._stamped].record(self._current_stream(self._device))
        self._stamped += 1

    def intervals_us(self) -> list[float]:
        """Waits for the device and returns the times from each event to the next."""
        self._synchronize(self._device)
        intervals_us: list[float] = []
        behind_us = 0.0  # How long before the latest event so far the last one was reached.
        for one, other in pairwise(self._events[: self._stamped]):
            later_us = one.elapsed_time(other) * US_PER_MS - behind_us
            intervals_us.append(max(0.0, later_us))
            behind_us = max(0.0, -later_us)
        return intervals_us


Mark = Any
"""A point in time; only the clock that set it can read it."""


class MarkClock(Protocol):
    """Sets marks and compares them."""

    def mark(self, stream: Any = None) -> Mark:
        """Marks the time at which a stream, or compute if None, gets to this point."""

    def us_between(self, one: Mark, other: Mark) -> float:
        """Returns the microseconds between two marks, once both are in the past."""


class HostClock:
    """The host's own clock: on the emulated device compute is the host."""

    def mark(self, stream: Any = None) -> int:
        """Notes the time."""
        return time.perf_counter_ns()

    def us_between(self, one: int, other: int) -> float:
        """Subtracts."""
        return (other - one) / NS_PER_US


class EventClock:
    """Events with timing: the device notes the time when its stream gets to them."""

    def __init__(self, new_event: Callable[[], Any] = _timed_event) -> None:
        self._new_event = new_event

    def mark(self, stream: Any = None) -> Any:
        """Records an event on a stream; on the current one if None."""
        event = self._new_event()
        event.record() if stream is None else event.record(stream)
        return event

    def us_between(self, one: Any, other: Any) -> float:
        """Waits on the host until the device is past both."""
        one.synchronize()
        other.synchronize()
        return one.elapsed_time(other) * US_PER_MS


class OpTimes(OpWatcher):
    """Stamps a clock before and after each op.

    [Note: ops between events] On a device that works behind the host's back the interval is the
    op's own time where the device is still busy with the ops before. Where it is idle the interval
    holds what the host takes to issue the op, too. So it is never less than what the op takes.

    Enter it before every other dispatch mode: the first one entered is the last one asked, so
    nothing but the op itself runs between its stamps.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._stamps = 0
        clock.start()

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Notes the number of an op's first stamp; one that fails leaves a stamp with no note."""
        begin = self._stamps
        self._stamp()
        result = func(*args, **kwargs)
        self._stamp()
        self._noted.append(begin)
        return result

    def durations_us(self) -> tuple[float, ...]:
        """Returns the time of each op, once the device is done."""
        intervals_us = self._clock.intervals_us()
        return tuple(intervals_us[begin] for begin in self._noted)

    def _stamp(self) -> None:
        self._clock.stamp()
        self._stamps += 1


class AnchorStamps:
    """An anchor listener that stamps a clock and nothing else.

    Attributes:
        keys: The anchors, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self.keys: list[str] = []
        self._clock = clock
        clock.start()

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Stamps; see `profiles.hooks.anchors`."""
        self.keys.append(key)
        self._clock.stamp()
