"""Lanes on an accelerator: one stream per direction, tied to compute by events.

See [Note: stream order] in `runtime.lanes.lane`. Nothing here blocks the host while training, and
no tensor is handed to `record_stream`: memory goes back to the allocator only after compute has
been made to wait for the lane, so its blocks are free for compute's next allocation in stream
order. All that orders work on the device goes through `StreamDevice`, so that a fake can stand in
for it and prove the order (`tests/support/training/fake_streams.py`).

[Note: interrupts on a stream] An interrupt may come between any two calls. So a launch is closed to
further copies before it is sent, and what was sent without its event being kept is sent again: the
same bytes, behind the first time. An event is given back once, by whichever wait finds that no copy
of its launch is still to be waited for.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from planner.plan.lanes import Direction
from profiles.hooks.mode_stack import unseen
from profiles.recording.clocks import MarkClock
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.kernels.carrier import KernelCarrier
from runtime.lanes.lane import LaneClosedError, Piece

Stream = Any
Event = Any


class StreamDevice(Protocol):
    """Streams and events of one accelerator."""

    def compute_streams(self) -> Sequence[Stream]:
        """All streams that the step's ops may go to; see [Note: several compute streams]."""

    def see_stream(self) -> None:
        """Gets to know the stream that ops go to at this point of the program."""

    def new_stream(self) -> Stream:
        """A stream of its own for a lane."""

    def record(self, stream: Stream) -> Event:
        """Marks this point of a stream."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Lets a stream's later work begin only when the event has been reached."""

    def recycle(self, event: Event) -> None:
        """Takes an event back that will not be waited for again."""

    def copy(
        self, stream: Stream, pieces: Sequence[Piece], direction: Direction, engine: CopyMethod
    ) -> None:
        """Has one launch copy between storages and pinned host memory, in stream order."""

    def finish(self, stream: Stream) -> None:
        """Blocks the host until a stream has done all it was given."""


class DeviceStreams:
    """`StreamDevice` on any accelerator of torch that has streams.

    Events are reused: a wait refers to the event as it was recorded last before the wait was
    called, so an event may be recorded anew as soon as no further wait will be called on it.

    [Note: several compute streams] A step may use more than one stream: its author trains on a
    stream of their own while parameters were made on the default one, or runs a branch beside the
    rest; autograd runs each backward node on the stream of its forward. The allocator hands a
    block back to the next request on the stream it was made on, in that stream's order. So a lane
    follows all of them, and all of them follow the lane: those that an anchor or a copy was reached
    on, and the default stream. With one stream that is one event, as ever; with more it orders
    more than is needed, never less.
    """

    def __init__(self, device: torch.device, carrier: KernelCarrier | None = None) -> None:
        """Begins with the default stream; `carrier` is what carries by kernel, if anything is."""
        self._device = device
        self._carrier = carrier
        self._spare: list[torch.Event] = []
        self._compute: tuple[torch.Stream, ...] = (default_stream(device),)

    def compute_streams(self) -> Sequence[torch.Stream]:
        """Those seen so far, the current one included."""
        self.see_stream()
        return self._compute

    def see_stream(self) -> None:
        """Gets to know the current stream."""
        stream = torch.accelerator.current_stream(self._device)
        if stream not in self._compute:
            self._compute = (*self._compute, stream)

    def new_stream(self) -> torch.Stream:
        """A stream from torch's pool."""
        return torch.Stream(device=self._device)

    def record(self, stream: torch.Stream) -> torch.Event:
        """Records an event without timing, which is the cheaper kind."""
        event = self._spare.pop() if self._spare else torch.Event(device=self._device)
        event.record(stream)
        return event

    def wait(self, stream: torch.Stream, event: torch.Event) -> None:
        """A wait on the device; the host goes on."""
        stream.wait_event(event)

    def recycle(self, event: torch.Event) -> None:
        """Keeps the event for the next `record`."""
        self._spare.append(event)

    def copy(
        self, stream: Stream, pieces: Sequence[Piece], direction: Direction, engine: CopyMethod
    ) -> None:
        """One asynchronous copy by the copy engine, or one kernel; host memory must be pinned."""
        to_host = direction is Direction.D2H
        if engine is not CopyMethod.DMA:
            assert self._carrier is not None, "a plan with kernels comes with what carries by them"
            jobs = [piece.job(direction) for piece in pieces]
            # Kernels are launched in the context of the thread's current device.
            with stream:
                self._carrier.carry(engine, jobs, to_host=to_host, stream=stream)
            return
        ((storage, host, _),) = pieces
        # Nor is it a call of the user's, which a guard between two steps would look at.
        with unseen(), torch._C.DisableTorchFunction(), stream:
            device_bytes = torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)
            host_bytes = host.tensor()
            if to_host:
                host_bytes.copy_(device_bytes, non_blocking=True)
            else:
                device_bytes.copy_(host_bytes, non_blocking=True)

    def finish(self, stream: torch.Stream) -> None:
        """Synchronises the stream."""
        stream.synchronize()


def default_stream(device: torch.device) -> torch.Stream:
    """Returns the stream that ops go to unless another is made current: torch numbers it 0."""
    current = torch.accelerator.current_stream(device)
    return torch.Stream(
        stream_id=0, device_index=current.device_index, device_type=current.device_type
    )


class Launch:
    """Copies that go off together, by one engine.

    Attributes:
        pieces: The copies; nothing once they have gone off.
        is_open: Whether further copies may join.
        ended: The event behind them; None before they go off, and once it has been given back.
        unwaited: Its copies that have not been waited for.
        span: The marks of their begin and end, if the lane has a clock.
    """

    def __init__(self, engine: CopyMethod) -> None:
        self.engine = engine
        self.pieces: list[Piece] = []
        self.is_open = True
        self.ended: Event | None = None
        self.unwaited: set[StreamCopy] = set()
        self.span: tuple[Any, Any] | None = None


class StreamCopy:
    """One copy issued to a stream.

    It holds the storage and the host bytes until compute has been made to wait for it: a graph
    that dies earlier must not return the block to the allocator under the lane.
    """

    # The host does not see when a copy ends, nor how.
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
        assert self._launch.span is not None, "its lane has a clock, and has sent it off"
        return self._launch.span


class StreamLane:
    """A lane that is a stream of its own."""

    def __init__(
        self, device: StreamDevice, direction: Direction, clock: MarkClock | None = None
    ) -> None:
        """Makes the lane's stream; `clock`, if there is one, marks both ends of each launch."""
        self._device = device
        self._direction = direction
        self._clock = clock
        self._stream = device.new_stream()
        self._pending: Launch | None = None
        self._closed = False

    def issue(
        self, storage: torch.UntypedStorage, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> StreamCopy:
        """Queues a copy behind all that compute was given so far; see [Note: pending batch]."""
        if self._closed:
            raise LaneClosedError(self._direction.value)
        batched = engine is CopyMethod.BATCH_KERNEL
        launch = self._pending
        if launch is None or not (batched and launch.is_open and launch.engine is engine):
            self.flush()
            launch = Launch(engine)
        piece = Piece.of(storage, host)
        copy = StreamCopy(self, launch, piece)
        launch.pieces.append(piece)
        launch.unwaited.add(copy)
        self._pending = launch
        if not batched:
            self.flush()
        return copy

    def flush(self) -> None:
        """Sends off the pending batch."""
        launch = self._pending
        if launch is not None:
            launch.is_open = False
            if launch.ended is None:
                self._send(launch)
            self._pending = None
            # From now on each copy holds its own ends.
            launch.pieces.clear()

    def let_compute_wait(self, launch: Launch, copy: StreamCopy) -> None:
        """Makes compute wait for one of a launch's copies; the last one gives its event back."""
        if launch is self._pending:
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

    def finish(self) -> None:
        """Blocks the host until the lane is empty."""
        self.flush()
        self._device.finish(self._stream)

    def close(self) -> None:
        """Waits on the host until the lane is empty, so that its memory may be unmapped."""
        self._closed = True
        self.finish()

    def _send(self, launch: Launch) -> None:
        for stream in self._device.compute_streams():
            before = self._device.record(stream)
            self._device.wait(self._stream, before)
            self._device.recycle(before)
        self._copy(launch)
        launch.ended = self._device.record(self._stream)

    def _copy(self, launch: Launch) -> None:
        clock, stream = self._clock, self._stream
        began = None if clock is None else clock.mark(stream)
        self._device.copy(stream, launch.pieces, self._direction, launch.engine)
        if clock is not None:
            launch.span = began, clock.mark(stream)
