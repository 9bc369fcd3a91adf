"""Lanes of the emulated accelerator: one thread per direction that copies at the link's rate.

[Note: lane order] A lane carries its copies one at a time, in the order they were issued. That is
what the simulator assumes (`planner.plan.simulate`) and what a copy engine does. The two lanes run
beside each other and beside compute: the copy itself releases the interpreter lock.

[Note: who may touch the bytes] From issue to end a copy owns both ends: nobody else may write the
source or read the target, and neither may be freed. `runtime.storage.residency` keeps this by
waiting for the copy before it releases, refills or hands back a storage; the copy itself keeps the
storage's Python object and the host slab, so that neither a dying graph nor a closed replay can
free them under the lane.

[Note: interrupts on a lane] An interrupt may come between any two instructions of the thread that
issues and waits. So a launch is closed to further copies before it is sent off, and may be sent off
twice: the lane's thread passes over what it has carried. What has ended is a flag that the lane's
thread sets; the lock only wakes who waits.
"""

import ctypes
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from planner.plan.lanes import Direction
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import LaneClosedError, Piece

if TYPE_CHECKING:
    from runtime.kernels.carrier import KernelCarrier

NS_PER_US = 1_000

LOOK_AGAIN_S = 1.0
"""How long a thread waits at most before it looks whether another one was woken in its place."""


LaunchTime = Callable[[Sequence[int], CopyMethod], float]
"""Returns how long a launch of copies of some sizes, by some kernel, takes on the link, in us."""


def no_time(sizes_bytes: Sequence[int], engine: CopyMethod) -> float:
    """A kernel is not held back: it takes what it takes on this machine."""
    return 0.0


class Copy:
    """A copy in flight or ended, or several that one launch carries.

    Attributes:
        pieces: Both ends of each, kept alive while in flight; none once ended.
        direction: Which way.
        engine: What carries them.
        issued_ns: When it was issued, on the performance counter.
        started_ns: When the lane took it up; 0 before that.
        ended_ns: When it ended; 0 before that.
        overrun_us: How much longer this machine took than the link would have; 0 before it ended.
        inexact: Whether a byte was packed that is no bool.
        fault: What was raised while it was carried; None if nothing.
        boards: Whether further copies may join it.
    """

    def __init__(
        self, direction: Direction, engine: CopyMethod, go: Callable[[], None] | None = None
    ) -> None:
        self.pieces: list[Piece] = []
        self.direction = direction
        self.engine = engine
        self.issued_ns = time.perf_counter_ns()
        self.started_ns = 0
        self.ended_ns = 0
        self.overrun_us = 0.0
        self.inexact = False
        self.fault: BaseException | None = None
        self.boards = go is not None
        self._go = go
        self._has_ended = False
        self._in_flight = threading.Lock()
        self._in_flight.acquire()

    @property
    def has_ended(self) -> bool:
        """Whether it has been carried, or has failed."""
        return self._has_ended

    def wait(self) -> float:
        """Blocks until the copy has ended.

        Returns:
            The time waited, in microseconds.
        """
        if self._has_ended:
            return 0.0
        start_ns = time.perf_counter_ns()
        if self._go is not None:
            self._go()
        while not self._has_ended:
            if self._in_flight.acquire(timeout=LOOK_AGAIN_S):
                self._in_flight.release()
        return (time.perf_counter_ns() - start_ns) / NS_PER_US

    def span(self) -> tuple[int, int]:
        """Blocks until the copy has ended; returns when it was taken up and when it ended."""
        self.wait()
        return self.started_ns, self.ended_ns

    def is_off(self) -> None:
        """It has been sent off: the lane's thread will carry it."""
        self._go = None

    def end(self, fault: BaseException | None = None) -> None:
        """It has been carried, or has failed: nobody need wait any longer."""
        self.fault = fault
        self.pieces.clear()
        self.ended_ns = time.perf_counter_ns()
        self._has_ended = True
        self._in_flight.release()

    def run(
        self, not_before_ns: int, duration_ns: float, carrier: "KernelCarrier | None" = None
    ) -> int:
        """Copies, then holds the lane for as long as the link would take.

        Args:
            not_before_ns: When the lane became free.
            duration_ns: What the copy takes on the link.
            carrier: What carries it, if a kernel does.

        Returns:
            When the lane is free again.
        """
        self.started_ns = time.perf_counter_ns()
        start_ns = max(not_before_ns, self.issued_ns)
        if self.engine is CopyMethod.DMA:
            _copy_bytes(self.pieces[0], self.direction)
        else:
            assert carrier is not None, "a plan with kernels comes with what carries by them"
            self._run_kernel(carrier)
        due_ns = start_ns + int(duration_ns)
        early_ns = due_ns - time.perf_counter_ns()
        if early_ns > 0:
            time.sleep(early_ns * 1e-9)
        else:
            self.overrun_us = -early_ns / NS_PER_US
        self.end()
        # A copy on time ended when it was due: waking late must not slow the link down.
        return due_ns if early_ns > 0 else self.ended_ns

    def _run_kernel(self, carrier: "KernelCarrier") -> None:
        from runtime.kernels.carrier import Ends

        ends = [Ends(p.address, p.host.address, p.storage.nbytes()) for p in self.pieces]
        carrier.carry(self.engine, ends, to_host=self.direction is Direction.D2H)
        self.inexact = carrier.saw_stray


class Passenger:
    """One of several copies that one launch carries, but the first.

    Attributes:
        overrun_us: 0: what the launch took too long, the first one tells.
    """

    overrun_us = 0.0

    def __init__(self, launch: Copy) -> None:
        self._launch = launch

    @property
    def inexact(self) -> bool:
        """As the launch has it."""
        return self._launch.inexact

    @property
    def fault(self) -> BaseException | None:
        """As the launch has it."""
        return self._launch.fault

    def wait(self) -> float:
        """Blocks until the launch has ended; returns the time waited, in microseconds."""
        return self._launch.wait()

    def span(self) -> tuple[int, int]:
        """Returns when the launch was taken up and when it ended."""
        return self._launch.span()


class Lane:
    """A first-in first-out lane of copies in one direction."""

    def __init__(
        self,
        direction: Direction,
        bytes_per_us: float,
        latency_us: float,
        launch_time: LaunchTime = no_time,
        carrier: "KernelCarrier | None" = None,
    ) -> None:
        """Starts the lane's thread.

        Args:
            direction: Which way.
            bytes_per_us: The rate that the copy engine keeps.
            latency_us: What each of its copies takes beyond that.
            launch_time: What a kernel takes.
            carrier: What carries by kernel; None if no copy is issued that a kernel carries.
        """
        self._direction = direction
        self._jobs: queue.SimpleQueue[tuple[Copy, float] | None] = queue.SimpleQueue()
        self._bytes_per_us = bytes_per_us
        self._latency_us = latency_us
        self._launch_time = launch_time
        self._boarding: Copy | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=_carry,
            args=(self._jobs, carrier),
            name=f"swapplan-{direction.value}",
            daemon=True,
        )
        self._thread.start()
        # The thread holds the queue, not the lane, so that a forgotten lane ends its thread.
        weakref.finalize(self, self._jobs.put, None)

    def issue(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        engine: CopyMethod = CopyMethod.DMA,
    ) -> Copy | Passenger:
        """Queues a copy between a storage and host memory of its size; returns at once.

        Raises:
            LaneClosedError: The lane has been closed.
        """
        if self._closed:
            raise LaneClosedError(f"the {self._direction.value} lane is closed")
        piece = Piece.of(storage, host)
        if engine is not CopyMethod.BATCH_KERNEL:
            self.flush()
            copy = Copy(self._direction, engine)
            copy.pieces.append(piece)
            self._put(copy)
            return copy
        boarding = self._boarding
        if boarding is not None and boarding.boards:
            boarding.pieces.append(piece)
            return Passenger(boarding)
        self.flush()
        boarding = Copy(self._direction, engine, self.flush)
        boarding.pieces.append(piece)
        self._boarding = boarding
        return boarding

    def flush(self) -> None:
        """Sends off what is boarding; see [Note: boarding] in `runtime.lanes.lane`."""
        boarding = self._boarding
        if boarding is not None:
            boarding.boards = False
            self._put(boarding)
            boarding.is_off()
            self._boarding = None

    def close(self) -> None:
        """Ends the lane after the copies it holds."""
        self._closed = True
        self.flush()
        self._jobs.put(None)
        self._thread.join()

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


def _copy_bytes(piece: Piece, direction: Direction) -> None:
    host = piece.host
    if direction is Direction.D2H:
        ctypes.memmove(host.address, piece.address, host.size_bytes)
    else:
        ctypes.memmove(piece.address, host.address, host.size_bytes)


def _carry(
    jobs: "queue.SimpleQueue[tuple[Copy, float] | None]", carrier: "KernelCarrier | None"
) -> None:
    free_ns = 0
    while (job := jobs.get()) is not None:
        copy, duration_ns = job
        if not copy.has_ended:
            try:
                free_ns = copy.run(free_ns, duration_ns, carrier)
            except BaseException as error:
                # It belongs to the thread that waits for this copy.
                copy.end(error.with_traceback(None))
        # Holding on to the last copy while idle would keep its storage's owner waiting for it.
        del job, copy
