"""The few stream operations that lanes on an accelerator need, and their CUDA form.

Everything that orders work on the device goes through this interface, so that a fake can stand in
for it and prove the order (`tests/support/training/fake_streams.py`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from planner.plan.lanes import Direction
from profiles.hooks.mode_stack import unseen
from profiles.schema.link import CopyMethod
from runtime.kernels.carrier import Ends, KernelCarrier
from runtime.lanes.lane import Piece

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
        """Takes an event back that nobody will wait for again."""

    def copy(
        self, stream: Stream, pieces: Sequence[Piece], direction: Direction, engine: CopyMethod
    ) -> Any:
        """Copies between storages and pinned host memory, in stream order.

        Args:
            stream: The stream.
            pieces: What one launch carries: one copy, or a batch.
            direction: Which way.
            engine: What carries them.

        Returns:
            The marks of its begin and end, if they are timed.
        """

    def finish(self, stream: Stream) -> None:
        """Blocks the host until a stream has done all it was given."""


class CudaStreams:
    """`StreamDevice` on CUDA.

    Events are reused: a wait refers to the event as it was recorded last before the wait was
    called, so an event may be recorded anew as soon as no further wait will be called on it.

    [Note: several compute streams] A step may use more than one stream: its author trains on a
    stream of their own while parameters were made on the default one, or runs a branch beside the
    rest; autograd runs each backward node on the stream of its forward. The allocator hands a
    block back to whoever asks next on the stream it was made on, in that stream's order. So a lane
    follows all of them, and all of them follow the lane: those that an anchor or a copy was reached
    on, and the default stream. With one stream that is one event, as ever; with more it orders
    more than is needed, never less.
    """

    def __init__(self, device: torch.device, carrier: KernelCarrier | None = None) -> None:
        """Begins with the default stream.

        Args:
            device: The device.
            carrier: What carries by kernel; None if nothing is.
        """
        self._device = device
        self._carrier = carrier
        self._spare: list[torch.cuda.Event] = []
        self._compute: tuple[torch.cuda.Stream, ...] = (torch.cuda.default_stream(device),)

    def compute_streams(self) -> Sequence[torch.cuda.Stream]:
        """Those seen so far, the current one included."""
        self.see_stream()
        return self._compute

    def see_stream(self) -> None:
        """Gets to know the current stream."""
        stream = torch.cuda.current_stream(self._device)
        if stream not in self._compute:
            self._compute = (*self._compute, stream)

    def new_stream(self) -> torch.cuda.Stream:
        """A stream from torch's pool."""
        return torch.cuda.Stream(self._device)

    def record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """Records an event without timing, which is the cheaper kind."""
        event = self._spare.pop() if self._spare else torch.cuda.Event()
        event.record(stream)
        return event

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """A wait on the device; the host goes on."""
        stream.wait_event(event)

    def recycle(self, event: torch.cuda.Event) -> None:
        """Keeps the event for the next `record`."""
        self._spare.append(event)

    def copy(
        self,
        stream: torch.cuda.Stream,
        pieces: Sequence[Piece],
        direction: Direction,
        engine: CopyMethod,
    ) -> None:
        """One asynchronous copy by the copy engine, or one kernel; host memory must be pinned."""
        if engine is not CopyMethod.DMA:
            self._launch(stream, pieces, direction, engine)
            return
        ((storage, host, _),) = pieces
        with unseen(), torch.cuda.stream(stream):
            device_bytes = torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)
            host_bytes = host.tensor()
            if direction is Direction.D2H:
                host_bytes.copy_(device_bytes, non_blocking=True)
            else:
                device_bytes.copy_(host_bytes, non_blocking=True)

    def _launch(
        self,
        stream: torch.cuda.Stream,
        pieces: Sequence[Piece],
        direction: Direction,
        engine: CopyMethod,
    ) -> None:
        assert self._carrier is not None, "a plan with kernels comes with what carries by them"
        ends = [
            Ends(piece.address, piece.host.device_address, piece.storage.nbytes())
            for piece in pieces
        ]
        # numba launches in the context of the thread's current device.
        with torch.cuda.device(self._device):
            self._carrier.carry(engine, ends, to_host=direction is Direction.D2H, stream=stream)

    def finish(self, stream: torch.cuda.Stream) -> None:
        """Synchronises the stream."""
        stream.synchronize()
