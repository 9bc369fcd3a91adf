"""What one local worker does: proves a plan together with the others, and tells its parent.

[Note: what workers share and what they do not] Worker `r` builds the workload from the source's
seed plus `r`, so batches, augmentation and dropout that come from the seed differ from worker to
worker; data that does not come from the seed is the same for all. DistributedDataParallel then
gives every worker the first one's parameters and buffers.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

import torch
from torch import distributed

from planner.plan.plan import Plan
from profiles.hooks.data_parallel import backend_of, data_parallel
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on, device_at_hand
from profiles.schema.errors import SwapplanError
from profiles.workloads.build import LARGEST_SEED, build
from runtime.proof.proof import prove
from runtime.proof.report import ProofReport


def build_for(plan: Plan, rank: int = 0) -> Workload:
    """Builds a plan's workload on the plan's device.

    Args:
        plan: The plan.
        rank: The number of the worker that builds it; added to the seed.

    Raises:
        WorkloadError: It cannot be built.
        CapacityError: The device has no room for it.
    """
    source = plan.workload
    seed = (source.seed + rank) % (LARGEST_SEED + 1)
    moved = source.model_copy(update={"seed": seed})
    return build_on(device_at_hand(plan.device.kind), lambda: build(moved))


SILENCE = timedelta(minutes=5)
"""A worker that neither ends nor answers the others for this long fails the proof."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is to do.

    Attributes:
        plan: The plan to prove.
        rank: The worker's number.
        count: How many workers there are.
        steps: Steps of each training.
        timed_steps: How many of them are timed.
        store: The file through which the workers find each other.
    """

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
class Told:
    """How far the worker is; see `profiles.schema.progress`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """Why the worker cannot go on, and when that was on the machine's monotonic clock."""

    reason: str
    at_ns: int


Message = Told | Failed | ProofReport


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


def _prove(assignment: Assignment, parent: Connection) -> ProofReport:
    plan, rank = assignment.plan, assignment.rank
    if plan.device.kind == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        backend_of(plan.device.kind),
        init_method=assignment.store,
        rank=rank,
        world_size=assignment.count,
        timeout=SILENCE,
    )
    alone = distributed.new_group([assignment.rank], use_local_synchronization=True)
    return prove(
        plan,
        build=lambda: data_parallel(build_for(plan, rank)),
        build_alone=lambda: data_parallel(build_for(plan, rank), process_group=alone),
        steps=assignment.steps,
        timed_steps=assignment.timed_steps,
        threads=assignment.threads,
        progress=_teller(parent) if assignment.rank == 0 else None,
    )


def _teller(parent: Connection) -> Callable[[str, int, int], None]:
    return lambda what, done, total: parent.send(Told(what, done, total))


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SwapplanError) else f"{type(error).__name__}: {text}"
