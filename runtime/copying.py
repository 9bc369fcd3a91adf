"""What a lane is to the rest of the runtime, whatever the device.

[Note: stream order] Everything the replay does to a storage's device bytes happens in the order of
the compute stream: the step's ops, `resize_(0)` and `resize_(n)` at anchors, and the waits. A lane
runs beside it and is tied to it at two points only:

- issuing: the lane waits for all that compute was given before. So a copy to the host reads
  finished bytes, and a copy back writes bytes that nobody before it still uses.
- waiting: compute waits for the copy. So a release hands back bytes that the lane no longer reads,
  and the next use reads bytes that have arrived.

On the emulated device compute is the Python thread itself, and waiting blocks it. On CUDA both are
stream operations and the host waits for nothing.
"""

from typing import Protocol

import torch

from runtime.host_pool import HostStretch


class CopyInFlight(Protocol):
    """One copy that has been issued.

    Attributes:
        overrun_us: How much longer it took than the planned link, where that is known.
    """

    overrun_us: float

    def wait(self) -> float:
        """Makes compute wait for the copy; returns the time the host waited, in microseconds."""


class CopyLane(Protocol):
    """A first-in first-out lane of copies in one direction."""

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> CopyInFlight:
        """Queues a copy between a storage and host memory of its size; returns at once."""

    def close(self) -> None:
        """Ends the lane after the copies it holds."""
