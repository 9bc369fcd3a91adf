"""Lanes on an accelerator: one stream per direction, tied to compute by events.

See [Note: stream order] in `runtime.copying`. Nothing here blocks the host while training, and no
tensor is handed to `record_stream`: memory goes back to the allocator only after compute has been
told to wait for the lane, so its blocks are free for compute's next allocation in stream order.
"""

import torch

from runtime.host_pool import HostStretch
from runtime.lanes import Direction
from runtime.streams import Event, StreamDevice


class StreamCopy:
    """One copy issued to a stream.

    It holds the storage and the host bytes until compute has been told to wait for it: a graph
    that dies earlier must not return the block to the allocator under the lane.

    Attributes:
        overrun_us: Always 0: the host does not see when a copy ends.
    """

    overrun_us = 0.0

    def __init__(
        self,
        device: StreamDevice,
        ended: Event,
        storage: torch.UntypedStorage,
        host: HostStretch,
    ) -> None:
        self._device = device
        self._ended: Event | None = ended
        self._held: tuple[torch.UntypedStorage, HostStretch] | None = (storage, host)

    def wait(self) -> float:
        """Makes compute wait for the copy, then lets go of both ends."""
        if self._ended is not None:
            for stream in self._device.compute_streams():
                self._device.wait(stream, self._ended)
            self._device.recycle(self._ended)
            self._ended = self._held = None
        return 0.0


class StreamLane:
    """A lane that is a stream of its own."""

    def __init__(self, device: StreamDevice, direction: Direction) -> None:
        self._device = device
        self._direction = direction
        self._stream = device.new_stream()

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> StreamCopy:
        """Queues a copy behind all that compute was given so far."""
        for stream in self._device.compute_streams():
            before = self._device.record(stream)
            self._device.wait(self._stream, before)
            self._device.recycle(before)
        self._device.copy(self._stream, storage, host, self._direction)
        return StreamCopy(self._device, self._device.record(self._stream), storage, host)

    def close(self) -> None:
        """Waits on the host until the lane is empty, so that its memory may be unmapped."""
        self._device.finish(self._stream)
