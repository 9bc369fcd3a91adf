"""Local workers: processes that prove a plan together; started, watched and ended from here.

[Note: a dead worker holds up no other] A worker's connection to this process closes when it ends,
however it ends, and that wakes this process. The first failure ends all: the others could only
wait for it in a collective until that times out.

[Note: what workers share and what they do not] Worker `r` builds the workload from the source's
seed plus `r`, so batches, augmentation and dropout that come from the seed differ from worker to
worker; data that does not come from the seed is the same for all. DistributedDataParallel then
gives every worker the first one's parameters and buffers.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import assert_never

import torch
from torch import distributed

from planner.plan.plan import Plan
from profiles.hooks.data_parallel import backend_of, data_parallel
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on, device_at_hand
from profiles.schema.errors import PlanMismatchError, SwapplanError, WorkerError
from profiles.schema.profile import CPU
from profiles.schema.progress import Progress, silent
from profiles.workloads.build import LARGEST_SEED, build
from runtime.host.host_memory import check_pools_fit
from runtime.proof.proof import prove
from runtime.proof.report import ProofReport
from runtime.replay.load import device_fault

OTHERS_SECONDS = 1.0
"""How long others may take to fail after the first: a killed worker's peers may report first."""
FAREWELL_SECONDS = 5.0
"""How long a worker may take to leave once asked."""
SILENCE = timedelta(minutes=5)
"""A worker that neither ends nor answers the others for this long fails the proof."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is to do: arguments of `prove`, its number `rank` of `count`, a common file."""

    plan: Plan
    rank: int
    count: int
    steps: int
    timed_steps: int
    store: str

    @property
    def threads(self) -> int:
        """Threads of this worker's ops on 'cpu': workers of one machine share its cores."""
        share = len(os.sched_getaffinity(0)) // self.count
        return max(1, min(share, self.plan.device.compute_threads))


@dataclass(frozen=True)
class Reached:
    """How far the worker is; see `profiles.schema.progress`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """Why the worker cannot go on, and when that was on the machine's monotonic clock."""

    reason: str
    at_ns: int


Message = Reached | Failed | ProofReport


def prove_with_workers(
    plan: Plan, *, count: int, steps: int, timed_steps: int, progress: Progress | None = None
) -> tuple[ProofReport, ...]:
    """Proves a plan with workers on this machine, on an accelerator with a device for each.

    Gradients go over what torch has for the device: gloo on 'cpu', NCCL on CUDA. The plan is one
    of a step in DistributedDataParallel. Steps are as in `prove`, and `progress` is called at each
    of the first worker's.

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
    if plan.device.kind != CPU and count > torch.accelerator.device_count():
        raise PlanMismatchError(
            f"--workers {count} needs a GPU for each, this machine shows "
            f"{torch.accelerator.device_count()}. Ask for no more workers than that."
        )
    check_pools_fit(plan.host_pool_bytes, count)
    with tempfile.TemporaryDirectory() as folder:
        workers: list[_Worker] = []
        try:
            store = (Path(folder) / "store").as_uri()
            for rank in range(count):
                workers.append(_Worker(Assignment(plan, rank, count, steps, timed_steps, store)))
            return _reports(workers, progress or silent)
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """One worker process, as its parent sees it."""

    def __init__(self, assignment: Assignment) -> None:
        # Fork would copy the threads' locks of whatever runs here, in any state.
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.rank = assignment.rank
        self.report: ProofReport | None = None
        self.failure: Failed | None = None
        name = f"worker-{self.rank}"
        self._process = spawn.Process(target=work, args=(assignment, theirs), name=name)
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
            case Reached():
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
        """Why it ended without a message; its exit code is below 0 for a signal."""
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}"


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
    """The failure that came first; one that ended without a message did so before any."""
    failures = [(worker.failure.at_ns, worker) for worker in workers if worker.failure is not None]
    _, first = min(failures, key=lambda failure: failure[0])
    assert first.failure is not None
    return (
        f"Worker {first.rank} of {len(workers)} failed: {first.failure.reason.rstrip('.')}. "
        "The others have been ended."
    )


def work(assignment: Assignment, parent: Connection) -> None:
    """Runs a worker process from begin to end; it does not return.

    [Note: how a worker leaves] It leaves without Python's farewell: a process group whose peers
    have gone would make that wait for them. A worker that is done stays until its parent closes
    the connection, so that no other loses a peer in its last collective.
    """
    # The interrupt key goes to every process of the terminal; the parent answers it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        parent.send(_prove(assignment, parent))
    except BaseException as error:
        parent.send(Failed(_reason(error), time.monotonic_ns()))
        os._exit(1)
    wait([parent])
    os._exit(0)


def build_for(plan: Plan, rank: int = 0) -> Workload:
    """Builds a plan's workload on the plan's device; a worker's rank is added to the seed.

    Raises:
        WorkloadError: It cannot be built.
        CapacityError: The device has no room for it.
    """
    seed = (plan.workload.seed + rank) % (LARGEST_SEED + 1)
    source = plan.workload.model_copy(update={"seed": seed})
    return build_on(device_at_hand(plan.device.kind), lambda: build(source))


def _prove(assignment: Assignment, parent: Connection) -> ProofReport:
    plan, rank = assignment.plan, assignment.rank
    if plan.device.kind != CPU:
        torch.accelerator.set_device_index(rank)
    distributed.init_process_group(
        backend_of(plan.device.kind),
        init_method=assignment.store,
        rank=rank,
        world_size=assignment.count,
        timeout=SILENCE,
    )
    alone = distributed.new_group([rank], use_local_synchronization=True)
    return prove(
        plan,
        build=lambda: data_parallel(build_for(plan, rank)),
        build_alone=lambda: data_parallel(build_for(plan, rank), process_group=alone),
        steps=assignment.steps,
        timed_steps=assignment.timed_steps,
        threads=assignment.threads,
        progress=(lambda *reached: parent.send(Reached(*reached))) if rank == 0 else None,
    )


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SwapplanError) else f"{type(error).__name__}: {text}"
