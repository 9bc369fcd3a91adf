"""The few stream operations that lanes on an accelerator need, and their CUDA form.

Everything that orders work on the device goes through this interface, so that a fake can stand in
for it and prove the order (`tests/fake_streams.py`).
"""

from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import _disable_current_modes

from runtime.host_pool import HostStretch
from runtime.lanes import Direction

Stream = Any
Event = Any


class StreamDevice(Protocol):
    """Streams and events of one accelerator."""

    def compute_stream(self) -> Stream:
        """The stream that the step's ops go to at this point of the program."""

    def new_stream(self) -> Stream:
        """A stream of its own for a lane."""

    def record(self, stream: Stream) -> Event:
        """Marks this point of a stream."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Lets a stream's later work begin only when the event has been reached."""

    def recycle(self, event: Event) -> None:
        """Takes an event back that nobody will wait for again."""

    def copy(
        self,
        stream: Stream,
        storage: torch.UntypedStorage,
        host: HostStretch,
        direction: Direction,
    ) -> None:
        """Copies between a storage and pinned host memory, in stream order."""

    def finish(self, stream: Stream) -> None:
        """Blocks the host until a stream has done all it was given."""


class CudaStreams:
    """`StreamDevice` on CUDA.

    Events are reused: a wait refers to the event as it was recorded last before the wait was
    called, so an event may be recorded anew as soon as no further wait will be called on it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spare: list[torch.cuda.Event] = []

    def compute_stream(self) -> torch.cuda.Stream:
        """The current stream: autograd sets it to the forward's for each backward node."""
        return torch.cuda.current_stream(self._device)

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
        storage: torch.UntypedStorage,
        host: HostStretch,
        direction: Direction,
    ) -> None:
        """One asynchronous copy by the copy engine; the host memory must be pinned."""
        # The copy is no op of the step: whoever watches those must not see it.
        with _disable_current_modes(), torch.no_grad(), torch.cuda.stream(stream):
            device_bytes = torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)
            host_bytes = host.tensor()
            if direction is Direction.D2H:
                host_bytes.copy_(device_bytes, non_blocking=True)
            else:
                device_bytes.copy_(host_bytes, non_blocking=True)

    def finish(self, stream: torch.cuda.Stream) -> None:
        """Synchronises the stream."""
        stream.synchronize()
