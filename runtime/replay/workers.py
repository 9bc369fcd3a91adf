"""Data-parallel workers: they agree on one plan, and report to each other steps that fell back.

[Note: falling back together] A worker whose step is not the planned one falls back at once and
alone: bringing its own storages back runs no collective and skips none, so the others, which wait
for its gradients and for nothing else, see no difference. The report reaches them at the boundary
of the step: all count that step as fallen back and warn once, and all replay the next one. The
one that diverged begins it with a prologue of its own; the others leave what is away where it is.
They bring nothing back for the sake of the one that diverged, and train no step resident: a plan
is there because that does not fit, so it would end the training of all where one odd batch on one
worker would not. Likewise, a worker that saves or evaluates between two steps brings its own
storages back alone.

[Note: reporting at the end, waiting at the next begin] The report is one small all-reduce over a
gloo group of its own, so that it stays apart from the order of the training's collectives, needs no
device and stops no stream. It is issued when a step ends and waited for when the next one begins.
A worker whose step raised issues nothing then: a collective that never ends keeps the process from
exiting, and that exit is what the others notice. If the training goes on after all, it is issued
before the next step.
"""

import hashlib
import platform
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from planner.plan.plan import Plan
from profiles.hooks.data_parallel import worker_wrapper
from profiles.schema.errors import PlanMismatchError, WorkerError
from profiles.schema.profile import Link
from profiles.schema.units import size_text
from runtime.host.host_memory import MIB, host_room

LAST_REPORT = timedelta(seconds=10)
"""How long `close` waits for the others' last step; they may have left the training early."""

NOT_EXECUTED = {"created_by", "host_budget_bytes", "budget_bytes", "link", "certificate"}
"""Parts of a plan that change nothing in what a worker does, or that workers agree on apart."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a worker brings to the agreement.

    Attributes:
        fault: Why it cannot follow its plan; None if it can.
        digest: Digest of what its plan has it do.
        budget_bytes: Its device's budget.
        link: The link that its plan was made for, or is to be replayed on.
        pool_bytes: The host pool that it will allocate.
        host: The machine it is on.
        host_free_bytes: What that machine has free and this process may take.
    """

    fault: str | None
    digest: str
    budget_bytes: int
    link: Link
    pool_bytes: int
    host: str
    host_free_bytes: int


class Workers:
    """The workers that train one model together, as one of them sees them.

    Making it is a collective: every worker of the group makes one.

    Attributes:
        rank: The number of this worker in the group.
        count: Their number.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        ranks = distributed.get_process_group_ranks(group)
        self.rank = distributed.get_rank(group)
        self.count = len(ranks)
        self._is_whole_world = self.count == distributed.get_world_size()
        # A group of some only is made without the others; those need not know of it.
        self._group = distributed.new_group(
            ranks, backend="gloo", use_local_synchronization=not self._is_whole_world
        )
        # One more than the rank of a worker that fell back; 0 if none did.
        self._report = torch.zeros(1, dtype=torch.int32, device="cpu")
        self._sending: distributed.Work | None = None
        self._withheld = False

    def agree(self, plan: Plan, fault: str | None) -> Plan:
        """Checks that all workers can follow the same plan, before any of them trains.

        A worker brings the plan that it loaded, and why it cannot follow it, if it cannot.

        Returns:
            The plan, with the smallest budget and the slowest link that a worker brought: all wait
            for the slowest in every all-reduce.

        Raises:
            PlanMismatchError: A worker cannot follow its plan, has another one than the first
                worker, or shares its host with too many others. Every worker raises it.
        """
        mine = Vote(
            fault=fault,
            digest=_digest(plan),
            budget_bytes=plan.budget_bytes,
            link=plan.link,
            pool_bytes=plan.host_pool_bytes,
            host=platform.node(),
            host_free_bytes=host_room().size_bytes,
        )
        votes = [mine] * self.count
        distributed.all_gather_object(votes, mine, group=self._group)
        disagreement = first_disagreement(votes)
        if disagreement is not None:
            self._leave()
            raise PlanMismatchError(disagreement)
        smallest_bytes = min(vote.budget_bytes for vote in votes)
        slowest = slowest_link([vote.link for vote in votes])
        return plan.model_copy(update={"budget_bytes": smallest_bytes, "link": slowest})

    def report(self, *, fell_back: bool) -> None:
        """Reports, at the end of a step, whether it fell back here; returns at once."""
        self._report.fill_(self.rank + 1 if fell_back else 0)
        self._sending = distributed.all_reduce(
            self._report, op=distributed.ReduceOp.MAX, group=self._group, async_op=True
        )

    def withhold(self) -> None:
        """Reports nothing of a step that raised, unless another one follows."""
        self._withheld = True

    def wait(self, timeout: timedelta | None = None) -> int | None:
        """Waits for the others' reports on the last step, at most as long as the process group.

        Returns:
            The rank of a worker that fell back in it; None if none did.

        Raises:
            WorkerError: A worker has gone, or did not answer.
        """
        if self._withheld:
            self._withheld = False
            self.report(fell_back=True)
        sending, self._sending = self._sending, None
        if sending is None:
            return None
        try:
            sending.wait() if timeout is None else sending.wait(timeout)
        except RuntimeError as error:
            reason = str(error).split("] ")[-1].split(". ")[0]
            raise WorkerError(
                f"Worker {self.rank} of {self.count} lost the others: {reason}. See their messages."
            ) from error
        rank = int(self._report) - 1
        return rank if rank >= 0 else None

    def close(self) -> int | None:
        """Does what `wait` does, unless the last step raised, and leaves the group."""
        if self._withheld:
            return None
        try:
            rank = self.wait(LAST_REPORT)
        except WorkerError:
            # A worker has gone, and its own message says why; leaving would wait for it.
            return None
        self._leave()
        return rank

    def _leave(self) -> None:
        # A group of some is named by its ranks: another under that name, after this one has gone,
        # would find the addresses that this one left behind.
        if self._is_whole_world:
            distributed.destroy_process_group(self._group)


def workers_of(model: torch.nn.Module) -> Workers | None:
    """Returns the workers that a model is trained by; None if there is but this process."""
    wrapper = worker_wrapper(model)
    if wrapper is None:
        return None
    group = wrapper.process_group
    return Workers(group) if distributed.get_world_size(group) > 1 else None


def slowest_link(links: list[Link]) -> Link:
    """Returns the first link with the least of every rate, and the most of the latency."""
    both = [link.both_bytes_per_us for link in links if link.both_bytes_per_us is not None]
    slowest = {
        "d2h_bytes_per_us": min(link.d2h_bytes_per_us for link in links),
        "h2d_bytes_per_us": min(link.h2d_bytes_per_us for link in links),
        "both_bytes_per_us": min(both, default=None),
        "latency_us": max(link.latency_us for link in links),
    }
    return links[0].model_copy(update=slowest)


def first_disagreement(votes: list[Vote]) -> str | None:
    """Says why workers, by rank, cannot train under one plan, and what to do; None if they can."""
    for rank, vote in enumerate(votes):
        if vote.fault is not None:
            return f"Worker {rank} of {len(votes)}: {vote.fault}"
    first = votes[0].digest
    for rank, vote in enumerate(votes):
        if vote.digest != first:
            return (
                f"Worker {rank} of {len(votes)} has plan {vote.digest[:12]}, worker 0 has plan "
                f"{first[:12]}. Give all of them one file, or use runtime.load_on_first."
            )
    hosts = dict.fromkeys(vote.host for vote in votes)
    faults = (_host_fault([vote for vote in votes if vote.host == host]) for host in hosts)
    return next(filter(None, faults), None)


def _host_fault(votes: list[Vote]) -> str | None:
    """Each worker's pool may fit by itself where those of all workers of the host do not."""
    pools_bytes = sum(vote.pool_bytes for vote in votes)
    free_bytes = min(vote.host_free_bytes for vote in votes)
    if pools_bytes <= free_bytes:
        return None
    return (
        f"The host pools of {len(votes)} workers on {votes[0].host} need {size_text(pools_bytes)}, "
        f"it has {size_text(free_bytes)} free. Train with fewer swaps: plan for less with "
        f"'plan solve --workers {len(votes)} --host-budget {free_bytes // MIB}MiB'."
    )


def _digest(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json(exclude=NOT_EXECUTED).encode()).hexdigest()
