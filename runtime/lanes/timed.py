"""Lanes that tell when each of their copies ran."""

from collections.abc import Callable, Sequence

import torch

from planner.plan.lanes import Direction
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import CopyInFlight, CopyLane, Piece
from runtime.lanes.streams import Event, Stream, StreamDevice
from runtime.lanes.timeline_marks import Mark, MarkClock, Span

Told = Callable[[Direction, Span], None]


class TimedLane:
    """A lane whose copies tell when they ran, and whom."""

    def __init__(self, lane: CopyLane, direction: Direction, told: Told) -> None:
        self._lane = lane
        self._direction = direction
        self._told = told

    def issue(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        engine: CopyMethod = CopyMethod.DMA,
    ) -> CopyInFlight:
        """Queues a copy and tells of it."""
        copy = self._lane.issue(storage, host, engine)
        self._told(self._direction, copy.span)
        return copy

    def flush(self) -> None:
        """Sends off what is boarding."""
        self._lane.flush()

    def close(self) -> None:
        """Ends the lane."""
        self._lane.close()


class TimedStreams:
    """A `StreamDevice` that marks both ends of each copy, on the stream it is on."""

    def __init__(self, streams: StreamDevice, clock: MarkClock) -> None:
        self._streams = streams
        self._clock = clock

    def compute_streams(self) -> Sequence[Stream]:
        """All streams that the step's ops may go to."""
        return self._streams.compute_streams()

    def see_stream(self) -> None:
        """Gets to know the stream that ops go to now."""
        self._streams.see_stream()

    def new_stream(self) -> Stream:
        """A stream of its own for a lane."""
        return self._streams.new_stream()

    def record(self, stream: Stream) -> Event:
        """Marks this point of a stream for others to wait for."""
        return self._streams.record(stream)

    def wait(self, stream: Stream, event: Event) -> None:
        """Lets a stream wait for an event."""
        self._streams.wait(stream, event)

    def recycle(self, event: Event) -> None:
        """Takes an event back."""
        self._streams.recycle(event)

    def copy(
        self,
        stream: Stream,
        pieces: Sequence[Piece],
        direction: Direction,
        engine: CopyMethod,
    ) -> tuple[Mark, Mark]:
        """Copies between two marks."""
        began = self._clock.mark(stream)
        self._streams.copy(stream, pieces, direction, engine)
        return began, self._clock.mark(stream)

    def finish(self, stream: Stream) -> None:
        """Blocks the host until a stream is done."""
        self._streams.finish(stream)
