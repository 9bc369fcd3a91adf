"""Local workers: processes that prove a plan together; started, watched and ended from here.

[Note: nobody waits for a dead worker] A worker's connection to this process closes when it ends,
however it ends, and that wakes this process. The first failure ends all: the others could only
wait for it in a collective until that times out.
"""

import multiprocessing
import signal
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import assert_never

import torch

from planner.plan.plan import Plan
from profiles.schema.errors import PlanMismatchError, WorkerError
from profiles.schema.progress import Progress, silent
from runtime.host.host_memory import check_pools_fit
from runtime.proof.report import ProofReport
from runtime.proof.worker_main import Assignment, Failed, Message, Told, work
from runtime.replay.load import device_fault

OTHERS_SECONDS = 1.0
"""How long others may take to fail after the first: a killed worker's peers can be told first."""
FAREWELL_SECONDS = 5.0
"""How long a worker may take to leave once asked."""


class _Worker:
    """One worker process, as its parent sees it.

    Attributes:
        rank: Its number.
        connection: Where its messages come from.
        report: What it found; None before that.
        failure: Why it could not go on, and when; None if it goes on or is done.
    """

    def __init__(self, assignment: Assignment) -> None:
        # Fork would copy the threads' locks of whatever runs here, in any state.
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.rank = assignment.rank
        self.report: ProofReport | None = None
        self.failure: Failed | None = None
        self._process = spawn.Process(
            target=work, args=(assignment, theirs), name=f"worker-{self.rank}"
        )
        self._process.start()
        # Only the worker holds its end now, so the connection closes when it ends.
        theirs.close()

    @property
    def at_work(self) -> bool:
        """Whether a report or a failure is still to come."""
        return self.report is None and self.failure is None

    def read(self, progress: Progress) -> None:
        """Takes one message."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionError):
            self.failure = Failed(self._ending(), 0)
            return
        match message:
            case Told():
                progress(message.what, message.done, message.total)
            case Failed():
                self.failure = message
            case ProofReport():
                self.report = message
            case _:
                assert_never(message)

    def end(self) -> None:
        """Ends the process, at the latest by killing it."""
        self.connection.close()
        if self.report is None:
            self._process.terminate()
        self._process.join(FAREWELL_SECONDS)
        self._process.kill()
        self._process.join()

    def _ending(self) -> str:
        """Why it ended without a word; its exit code is below 0 for a signal."""
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}"


def prove_with_workers(
    plan: Plan,
    *,
    count: int,
    steps: int,
    timed_steps: int,
    progress: Progress | None = None,
) -> tuple[ProofReport, ...]:
    """Proves a plan with workers on this machine: over gloo, or over NCCL with a GPU for each.

    Args:
        plan: A plan of a step in DistributedDataParallel.
        count: How many workers.
        steps: Steps of each training.
        timed_steps: How many of them are timed; fewer than `steps`.
        progress: Told of the first worker's steps.

    Returns:
        Each worker's report, by rank.

    Raises:
        WorkerError: A worker failed or was killed; the others have been ended.
        PlanMismatchError: The plan is for a device that is not there, or too few of it are.
        SwapplanError: This machine has no room for all their host pools.
    """
    fault = device_fault(plan)
    if fault is not None:
        raise PlanMismatchError(fault)
    if plan.device.kind == "cuda" and count > torch.cuda.device_count():
        raise PlanMismatchError(
            f"--workers {count} needs a GPU for each, this machine shows "
            f"{torch.cuda.device_count()}. Ask for no more workers than that."
        )
    check_pools_fit(plan.host_pool_bytes, count)
    with tempfile.TemporaryDirectory() as folder:
        workers: list[_Worker] = []
        try:
            for rank in range(count):
                assignment = Assignment(
                    plan=plan,
                    rank=rank,
                    count=count,
                    steps=steps,
                    timed_steps=timed_steps,
                    store=(Path(folder) / "store").as_uri(),
                )
                workers.append(_Worker(assignment))
            return _reports(workers, progress or silent)
        finally:
            for worker in workers:
                worker.end()


def _reports(workers: list[_Worker], progress: Progress) -> tuple[ProofReport, ...]:
    while any(worker.at_work for worker in workers):
        _read_from(workers, progress, None)
        if any(worker.failure for worker in workers):
            deadline = time.monotonic() + OTHERS_SECONDS
            while (left := deadline - time.monotonic()) > 0 and any(w.at_work for w in workers):
                _read_from(workers, progress, left)
            raise WorkerError(_first_failure(workers))
    return tuple(worker.report for worker in workers if worker.report is not None)


def _read_from(workers: list[_Worker], progress: Progress, timeout_s: float | None) -> None:
    at_work: dict[Connection, _Worker] = {w.connection: w for w in workers if w.at_work}
    for connection in wait(list(at_work), timeout_s):
        assert isinstance(connection, Connection)
        at_work[connection].read(progress)


def _first_failure(workers: list[_Worker]) -> str:
    """The failure that came first; one that ended without a word did so before any message."""
    failed = [worker for worker in workers if worker.failure is not None]
    first = min(failed, key=lambda worker: worker.failure.at_ns if worker.failure else 0)
    assert first.failure is not None
    return (
        f"Worker {first.rank} of {len(workers)} failed: {first.failure.reason.rstrip('.')}. "
        "The others have been ended."
    )
