"""Lanes of the emulated accelerator: one thread per direction that copies at the link's rate.

[Note: lane order] A lane carries its copies one at a time, in the order they were issued. That is
what the simulator assumes (`planner.simulate`) and what a copy engine does. The two lanes run
beside each other and beside compute: the copy itself releases the interpreter lock.

[Note: who may touch the bytes] From issue to end a copy owns both ends: nobody else may write the
source or read the target, and neither may be freed. `runtime.residency` keeps this by waiting for
the copy before it releases, refills or hands back a storage; the copy itself keeps the storage's
Python object and the host slab, so that neither a dying graph nor a closed replay can free them
under the lane.
"""

import ctypes
import queue
import threading
import time
import weakref
from enum import Enum

import torch

from runtime.host_pool import HostStretch

NS_PER_US = 1_000


class Direction(Enum):
    """Which way a lane copies."""

    D2H = "D2H"
    H2D = "H2D"


class Copy:
    """One copy in flight or ended.

    Attributes:
        storage: The device end, kept alive while in flight; None once ended.
        host: The host end, likewise.
        direction: Which way.
        issued_ns: When it was issued, on the performance counter.
        started_ns: When the lane took it up; 0 before that.
        ended_ns: When it ended; 0 before that.
        overrun_us: How much longer this machine took than the link would have; 0 before it ended.
    """

    def __init__(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        direction: Direction,
    ) -> None:
        self.storage: torch.UntypedStorage | None = storage
        self.host: HostStretch | None = host
        self.direction = direction
        self.issued_ns = time.perf_counter_ns()
        self.started_ns = 0
        self.ended_ns = 0
        self.overrun_us = 0.0
        self._ended = threading.Event()

    def wait(self) -> float:
        """Blocks until the copy has ended.

        Returns:
            The time waited, in microseconds.
        """
        if self._ended.is_set():
            return 0.0
        start_ns = time.perf_counter_ns()
        self._ended.wait()
        return (time.perf_counter_ns() - start_ns) / NS_PER_US

    def span_ns(self) -> tuple[int, int]:
        """Blocks until the copy has ended; returns when it was taken up and when it ended."""
        self._ended.wait()
        return self.started_ns, self.ended_ns

    def run(self, not_before_ns: int, duration_ns: float) -> int:
        """Copies, then holds the lane for as long as the link would take.

        Args:
            not_before_ns: When the lane became free.
            duration_ns: What the copy takes on the link.

        Returns:
            When the lane is free again.
        """
        assert self.storage is not None
        assert self.host is not None
        self.started_ns = time.perf_counter_ns()
        start_ns = max(not_before_ns, self.issued_ns)
        device_address = self.storage.data_ptr()
        if self.direction is Direction.D2H:
            ctypes.memmove(self.host.address, device_address, self.host.size_bytes)
        else:
            ctypes.memmove(device_address, self.host.address, self.host.size_bytes)
        due_ns = start_ns + int(duration_ns)
        early_ns = due_ns - time.perf_counter_ns()
        if early_ns > 0:
            time.sleep(early_ns * 1e-9)
        else:
            self.overrun_us = -early_ns / NS_PER_US
        self.storage = self.host = None
        self.ended_ns = time.perf_counter_ns()
        self._ended.set()
        # A copy on time ended when it was due: waking late must not slow the link down.
        return due_ns if early_ns > 0 else self.ended_ns


class Lane:
    """A first-in first-out lane of copies in one direction."""

    def __init__(self, direction: Direction, bytes_per_us: float, latency_us: float) -> None:
        self._direction = direction
        self._jobs: queue.SimpleQueue[tuple[Copy, float] | None] = queue.SimpleQueue()
        self._bytes_per_us = bytes_per_us
        self._latency_us = latency_us
        self._thread = threading.Thread(
            target=_carry, args=(self._jobs,), name=f"swapplan-{direction.value}", daemon=True
        )
        self._thread.start()
        # The thread holds the queue, not the lane, so that a forgotten lane ends its thread.
        self._finalizer = weakref.finalize(self, self._jobs.put, None)

    def issue(self, storage: torch.UntypedStorage, host: HostStretch) -> Copy:
        """Queues a copy between a storage and host memory of its size; returns at once."""
        copy = Copy(storage, host, self._direction)
        duration_us = self._latency_us + host.size_bytes / self._bytes_per_us
        self._jobs.put((copy, duration_us * NS_PER_US))
        return copy

    def close(self) -> None:
        """Ends the lane after the copies it holds."""
        self._finalizer()
        self._thread.join()


def _carry(jobs: "queue.SimpleQueue[tuple[Copy, float] | None]") -> None:
    free_ns = 0
    while (job := jobs.get()) is not None:
        copy, duration_ns = job
        free_ns = copy.run(free_ns, duration_ns)
        # Holding on to the last copy while idle would keep its storage's owner waiting for it.
        del job, copy
