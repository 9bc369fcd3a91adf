"""Lanes on an accelerator: one stream per direction, tied to compute by events.

See [Note: stream order] in `runtime.lanes.lane`. Nothing here blocks the host while training, and
no tensor is handed to `record_stream`: memory goes back to the allocator only after compute has
been told to wait for the lane, so its blocks are free for compute's next allocation in stream
order.

[Note: interrupts on a stream] An interrupt may come between any two calls. So a launch is closed to
further copies before it is sent, and what was sent without its event being kept is sent again: the
same bytes, behind the first time. An event is given back once, by whichever wait finds that no copy
of its launch is still to be waited for.
"""

from typing import Any

import torch

from planner.plan.lanes import Direction
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import LaneClosedError, Piece
from runtime.lanes.streams import Event, StreamDevice


class Launch:
    """Copies that go off together, and the event behind them.

    Attributes:
        engine: What carries them.
        pieces: What boards; nothing once it has gone off.
        boards: Whether further copies may join.
        ended: The event behind them; None before they go off, and once it has been given back.
        unwaited: Its copies that have not been waited for.
        span: What the device tells of when they ran.
    """

    def __init__(self, engine: CopyMethod) -> None:
        self.engine = engine
        self.pieces: list[Piece] = []
        self.boards = True
        self.ended: Event | None = None
        self.unwaited: set[StreamCopy] = set()
        self.span: Any = None


class StreamCopy:
    """One copy issued to a stream.

    It holds the storage and the host bytes until compute has been told to wait for it: a graph
    that dies earlier must not return the block to the allocator under the lane.

    Attributes:
        overrun_us: Always 0: the host does not see when a copy ends.
        inexact: Always False, for the same reason.
        fault: Always None, for the same reason.
    """

    overrun_us = 0.0
    inexact = False
    fault: BaseException | None = None

    def __init__(self, lane: "StreamLane", launch: Launch, piece: Piece) -> None:
        self._lane = lane
        self._launch = launch
        self._held: Piece | None = piece

    def wait(self) -> float:
        """Makes compute wait for the copy, then lets go of both ends."""
        if self._held is not None:
            self._lane.let_compute_wait(self._launch, self)
            self._held = None
        return 0.0

    def span(self) -> tuple[Any, Any]:
        """Returns the marks of its launch's begin and end."""
        begin, end = self._launch.span
        return begin, end


class StreamLane:
    """A lane that is a stream of its own."""

    def __init__(self, device: StreamDevice, direction: Direction) -> None:
        self._device = device
        self._direction = direction
        self._stream = device.new_stream()
        self._boarding: Launch | None = None
        self._closed = False

    def issue(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        engine: CopyMethod = CopyMethod.DMA,
    ) -> StreamCopy:
        """Queues a copy behind all that compute was given so far; see [Note: boarding].

        Raises:
            LaneClosedError: The lane has been closed.
        """
        if self._closed:
            raise LaneClosedError(f"the {self._direction.value} lane is closed")
        batched = engine is CopyMethod.BATCH_KERNEL
        launch = self._boarding
        if launch is None or not (batched and launch.boards and launch.engine is engine):
            self.flush()
            launch = Launch(engine)
        piece = Piece.of(storage, host)
        copy = StreamCopy(self, launch, piece)
        launch.pieces.append(piece)
        launch.unwaited.add(copy)
        self._boarding = launch
        if not batched:
            self.flush()
        return copy

    def flush(self) -> None:
        """Sends off what is boarding."""
        launch = self._boarding
        if launch is not None:
            launch.boards = False
            if launch.ended is None:
                self._send(launch)
            self._boarding = None
            # From now on each copy holds its own ends.
            launch.pieces.clear()

    def let_compute_wait(self, launch: Launch, copy: StreamCopy) -> None:
        """Makes compute wait for one of a launch's copies; the last one gives its event back."""
        if launch is self._boarding:
            self.flush()
        ended = launch.ended
        if ended is None:
            # Every copy of it has been waited for, and this one is waited for once more.
            return
        for stream in self._device.compute_streams():
            self._device.wait(stream, ended)
        launch.unwaited.discard(copy)
        if not launch.unwaited:
            launch.ended = None
            self._device.recycle(ended)

    def close(self) -> None:
        """Waits on the host until the lane is empty, so that its memory may be unmapped."""
        self._closed = True
        self.flush()
        self._device.finish(self._stream)

    def _send(self, launch: Launch) -> None:
        for stream in self._device.compute_streams():
            before = self._device.record(stream)
            self._device.wait(self._stream, before)
            self._device.recycle(before)
        launch.span = self._copy(launch)
        launch.ended = self._device.record(self._stream)

    def _copy(self, launch: Launch) -> Any:
        return self._device.copy(self._stream, launch.pieces, self._direction, launch.engine)
