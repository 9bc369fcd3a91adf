"""What a lane is to the rest of the runtime, whatever the device.

[Note: stream order] Everything the replay does to a storage's device bytes happens in the order of
the compute stream: the step's ops, `resize_(0)` and `resize_(n)` at anchors, and the waits. A lane
runs beside it and is tied to it at two points only:

- issuing: the lane waits for all that compute was given before. So a copy to the host reads
  finished bytes, and a copy back writes bytes that nothing before it still uses.
- waiting: compute waits for the copy. So a release hands back bytes that the lane no longer reads,
  and the next use reads bytes that have arrived.

On the emulated device compute is the Python thread itself, and waiting blocks it. On CUDA both are
stream operations and the host waits for nothing.

[Note: pending batch] Copies that the batch kernel carries join one launch until something else is
issued on their lane, one of them is waited for, or `flush` is called, which a replay does at the
end of each anchor. They are the batches that the simulator counts with (`planner.plan.copy_times`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from planner.plan.lanes import Direction
from profiles.hooks.plain_tensors import address_of
from profiles.recording.clocks import Mark
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.kernels.job import CopyJob

Span = Callable[[], tuple[Mark, Mark]]
"""Returns when a copy was begun and ended, once it has."""


class Piece(NamedTuple):
    """The two ends of one copy.

    Attributes:
        storage: The device end.
        host: The host end.
        address: Where the bytes of the device end are. A lane does not ask its storage: asking
            would take its mark off (`runtime.storage.write_marks`).
    """

    storage: torch.UntypedStorage
    host: HostStretch
    address: int

    @classmethod
    def of(cls, storage: torch.UntypedStorage, host: HostStretch) -> "Piece":
        """Makes one for a copy that is issued now."""
        return cls(storage, host, address_of(storage))

    def job(self, direction: Direction) -> CopyJob:
        """The copy as a kernel is handed it."""
        device, host = self.address, self.host.device_address
        source, target = (device, host) if direction is Direction.D2H else (host, device)
        return CopyJob(
            source_address=source, target_address=target, size_bytes=self.storage.nbytes()
        )


class CopyInFlight(Protocol):
    """One copy that has been issued, or the batch that it is part of.

    Attributes:
        overrun_us: How much longer it took than the planned link, where that is known. Code that
            adds it up sets it to 0: a batch is waited for once for each of its copies.
        inexact: Whether the host end turned out not to hold all that the device end does, where
            that is known when it has been waited for.
        fault: What went wrong, where that is known when it has been waited for; None if nothing.
    """

    overrun_us: float
    inexact: bool
    fault: BaseException | None

    def wait(self) -> float:
        """Makes compute wait for the copy; returns the time the host waited, in microseconds.

        An interrupt may end it at any point. It may then be called again, and any number of times.
        """

    def span(self) -> tuple[Mark, Mark]:
        """Returns the marks of its begin and end, once it has ended, if its lane is timed."""


class CopyLane(Protocol):
    """A first-in first-out lane of copies in one direction."""

    def issue(
        self, storage: torch.UntypedStorage, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> CopyInFlight:
        """Queues a copy between a storage and host memory of its size; returns at once.

        Raises:
            LaneClosedError: The lane has been closed.
        """

    def flush(self) -> None:
        """Sends off the pending batch."""

    def finish(self) -> None:
        """Blocks the host until all copies issued so far have ended."""

    def close(self) -> None:
        """Ends the lane after the copies it holds. May be called again, after an interrupt, too."""


class TimedLane:
    """A lane that reports the span of each copy it issues."""

    def __init__(
        self, lane: CopyLane, direction: Direction, report: Callable[[Direction, Span], None]
    ) -> None:
        self._lane, self._direction, self._report = lane, direction, report
        self.flush, self.finish, self.close = lane.flush, lane.finish, lane.close

    def issue(
        self, storage: torch.UntypedStorage, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> CopyInFlight:
        """Queues a copy and reports it."""
        copy = self._lane.issue(storage, host, engine)
        self._report(self._direction, copy.span)
        return copy


class LaneClosedError(RuntimeError):
    """A copy was issued on a lane that has ended: nothing would ever carry it."""

    def __init__(self, lane: str) -> None:
        super().__init__(f"the {lane} lane is closed")
