"""Lanes of the emulated accelerator: one thread per direction that copies at the link's rate.

[Note: lane order] A lane carries its copies one at a time, in the order they were issued. That is
what the simulator assumes (`planner.plan.simulate`) and what a copy engine does. The two lanes run
beside each other and beside compute: the copy itself releases the interpreter lock.

[Note: who may touch the bytes] From issue to end a copy owns both ends: nothing else may write the
source or read the target, and neither may be freed. `runtime.storage.residency` keeps this by
waiting for the copy before it releases, refills or hands back a storage; the copy itself keeps the
storage's Python object and the host slab, so that neither a dying graph nor a closed replay can
free them under the lane.

[Note: interrupts on a lane] An interrupt may come between any two instructions of the thread that
issues and waits. So a launch is closed to further copies before it is sent off, and may be sent off
twice: the lane's thread passes over what it has carried. What has ended is a flag that the lane's
thread sets; the lock only wakes the thread that waits.
"""

import ctypes
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import torch

from planner.plan.lanes import Direction
from profiles.schema.link import CopyMethod
from profiles.schema.units import NS_PER_US
from runtime.host.host_pool import HostStretch
from runtime.kernels.carrier import KernelCarrier
from runtime.lanes.lane import LaneClosedError, Piece

LOOK_AGAIN_S = 1.0
"""How long a thread waits at most before it looks whether another one was woken in its place."""

LaunchTime = Callable[[Sequence[int], CopyMethod], float]
"""Returns how long a launch of copies of some sizes, by some kernel, takes on the link, in us."""


class Copy:
    """A copy in flight or ended, or several that one launch carries; see `CopyInFlight`, too.

    Attributes:
        pieces: Both ends of each, kept alive while in flight; none once ended.
        engine: What carries them.
        issued_ns: When it was issued, on the performance counter.
        started_ns: When the lane took it up; 0 before that.
        ended_ns: When it ended; 0 before that.
        is_open: Whether further copies may join it.
        send_off: Sends it off, if it is a pending batch.
        has_ended: Whether it has been carried, or has failed.
    """

    def __init__(self, engine: CopyMethod, send_off: Callable[[], None] | None = None) -> None:
        self.pieces: list[Piece] = []
        self.engine = engine
        self.issued_ns = time.perf_counter_ns()
        self.started_ns = 0
        self.ended_ns = 0
        self.overrun_us = 0.0
        self.inexact = False
        self.fault: BaseException | None = None
        self.is_open = send_off is not None
        self.send_off = send_off
        self.has_ended = False
        self._in_flight = threading.Lock()
        self._in_flight.acquire()

    def wait(self) -> float:
        """Blocks until the copy has ended; returns the time waited, in microseconds."""
        if self.has_ended:
            return 0.0
        start_ns = time.perf_counter_ns()
        if self.send_off is not None:
            self.send_off()
        while not self.has_ended:
            if self._in_flight.acquire(timeout=LOOK_AGAIN_S):
                self._in_flight.release()
        return (time.perf_counter_ns() - start_ns) / NS_PER_US

    def span(self) -> tuple[int, int]:
        """Blocks until the copy has ended; returns when it was taken up and when it ended."""
        self.wait()
        return self.started_ns, self.ended_ns

    def end(self, fault: BaseException | None = None) -> None:
        """It has been carried, or has failed: no thread need wait any longer."""
        self.fault = fault
        self.pieces.clear()
        self.ended_ns = time.perf_counter_ns()
        self.has_ended = True
        self._in_flight.release()


class EmulatedLane:
    """A lane that is a thread."""

    def __init__(
        self,
        direction: Direction,
        bytes_per_us: float,
        latency_us: float,
        launch_time: LaunchTime = lambda *_: 0.0,
        carrier: KernelCarrier | None = None,
    ) -> None:
        """Starts the lane's thread.

        The copy engine keeps a rate, and each of its copies takes the latency beyond that. What
        carries by kernel, if anything does, is held back to take the launch time at least.
        """
        self._direction = direction
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._bytes_per_us = bytes_per_us
        self._latency_us = latency_us
        self._launch_time = launch_time
        self._pending: Copy | None = None
        self._last: Copy | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=_carry_all,
            args=(self._jobs, direction, carrier),
            name=f"swapplan-{direction.value}",
            daemon=True,
        )
        self._thread.start()
        # The thread holds the queue, not the lane, so that a forgotten lane ends its thread.
        self._forgotten = weakref.finalize(self, self._jobs.put, None)

    def issue(
        self, storage: torch.UntypedStorage, host: HostStretch, engine: CopyMethod = CopyMethod.DMA
    ) -> Copy:
        """Queues a copy and returns it, or the pending batch that it has joined."""
        if self._closed:
            raise LaneClosedError(self._direction.value)
        piece = Piece.of(storage, host)
        if engine is not CopyMethod.BATCH_KERNEL:
            self.flush()
            copy = Copy(engine)
            copy.pieces.append(piece)
            self._put(copy)
            return copy
        pending = self._pending
        if pending is not None and pending.is_open:
            pending.pieces.append(piece)
            return pending
        self.flush()
        pending = Copy(engine, self.flush)
        pending.pieces.append(piece)
        self._pending = pending
        return pending

    def flush(self) -> None:
        """Sends off the pending batch; see [Note: pending batch] in `runtime.lanes.lane`."""
        pending = self._pending
        if pending is not None:
            pending.is_open = False
            self._put(pending)
            pending.send_off = None
            self._pending = None

    def finish(self) -> None:
        """Blocks until the last copy has ended, and with it all others."""
        self.flush()
        if self._last is not None:
            self._last.wait()

    def close(self) -> None:
        """Ends the lane after the copies it holds."""
        self._closed = True
        self.flush()
        self._jobs.put(None)
        self._thread.join()
        # A closed lane leaves no callback behind, in which an interrupt would be swallowed.
        self._forgotten.detach()

    def _put(self, copy: Copy) -> None:
        pieces = tuple(copy.pieces)
        if not pieces:
            # It has been carried already.
            return
        if copy.engine is CopyMethod.DMA:
            size_bytes = pieces[0].host.size_bytes
            duration_us = self._latency_us + size_bytes / self._bytes_per_us
        else:
            sizes_bytes = [piece.storage.nbytes() for piece in pieces]
            duration_us = self._launch_time(sizes_bytes, copy.engine)
        self._jobs.put((copy, duration_us * NS_PER_US))
        # Only now: an interrupt must not leave one to be waited for that is never carried.
        self._last = copy


Job = tuple[Copy, float]
"""A copy, and the nanoseconds that it takes on the link."""


def _carry_all(
    jobs: "queue.SimpleQueue[Job | None]", direction: Direction, carrier: KernelCarrier | None
) -> None:
    """What a lane's thread does: carries one copy after the other, until None comes."""
    free_ns = 0
    while (job := jobs.get()) is not None:
        copy, duration_ns = job
        if not copy.has_ended:
            try:
                due_ns = max(free_ns, copy.issued_ns) + int(duration_ns)
                free_ns = carry(copy, direction, carrier, due_ns)
            except BaseException as error:
                # It belongs to the thread that waits for this copy.
                copy.end(error.with_traceback(None))
        # Holding on to the last copy while idle would keep its storage's owner waiting for it.
        del job, copy


def carry(copy: Copy, direction: Direction, carrier: KernelCarrier | None, due_ns: int) -> int:
    """Copies, then holds the lane until the link would be done; returns when it is free again."""
    copy.started_ns = time.perf_counter_ns()
    if copy.engine is CopyMethod.DMA:
        _copy_bytes(copy.pieces[0], direction)
    else:
        assert carrier is not None, "a plan with kernels comes with what carries by them"
        _run_kernel(copy, direction, carrier)
    late_ns = _wait_until(due_ns)
    copy.overrun_us = late_ns / NS_PER_US
    copy.end()
    # A copy on time ended when it was due: waking late must not slow the link down.
    return copy.ended_ns if late_ns else due_ns


def _copy_bytes(piece: Piece, direction: Direction) -> None:
    host = piece.host
    if direction is Direction.D2H:
        ctypes.memmove(host.address, piece.address, host.size_bytes)
    else:
        ctypes.memmove(piece.address, host.address, host.size_bytes)


def _run_kernel(copy: Copy, direction: Direction, carrier: KernelCarrier) -> None:
    jobs = [piece.job(direction) for piece in copy.pieces]
    carrier.carry(copy.engine, jobs, to_host=direction is Direction.D2H)
    copy.inexact = carrier.saw_stray


def _wait_until(due_ns: int) -> int:
    """Sleeps until then; returns how late it is already, 0 if it is not."""
    early_ns = due_ns - time.perf_counter_ns()
    if early_ns > 0:
        time.sleep(early_ns * 1e-9)
    return max(0, -early_ns)
