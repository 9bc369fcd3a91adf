"""Adam on the host: its states never are on the device, gradients go out, parameters come back.

- ZeRO-Offload (Ren et al., ATC 2021, arXiv:2101.06840): gradients leave as backward makes them and
  are freed; when all are there (their norm is needed, and whether one overflowed) the host updates
  one parameter after the other, and what is updated comes back meanwhile.
- torchao's `CPUOffloadOptimizer` (torchao/optim/cpu_offload.py, read): the same on one stream, but
  each parameter is updated as soon as its gradient is there; nothing comes back before backward has
  ended. Gradients stay on the device, or are freed with `offload_gradients`.

Adam does little for each byte, so the host's memory bounds it: per parameter it reads the gradient,
the parameter and two states, and writes the latter three, at the rate of the memory of one socket.
No host is faster. DeepSpeed's own figure, 11.6 billion parameters in 8.2 s (GitHub
deepspeedai/DeepSpeed#735), is 40 GB/s.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.choice import Stop
from planner.heuristics.reference import Outcome, Reference
from planner.heuristics.task import Task
from planner.plan.copy_times import copy_us
from planner.plan.lanes import Direction
from profiles.hardware.links import known_sharing
from profiles.schema.link import CopyMethod
from profiles.schema.memory import slot_memory
from profiles.schema.profile import (
    OPTIMIZER_POST,
    OPTIMIZER_PRE,
    Access,
    Link,
    Profile,
    Storage,
    StorageKind,
)
from profiles.schema.units import rate_text

STATES = ("exp_avg", "exp_avg_sq")
"""What torch's Adam and AdamW call the states that are as large as the parameter."""
MEMORY_BYTES_PER_US = 204_800.0
"""Where the table of links knows no rate of a socket's memory: eight channels of DDR4-3200."""


class _Update(NamedTuple):
    """One parameter's update.

    Attributes:
        gradient: Its gradient.
        parameter: It.
        states_bytes: Its states.
        made_slot: The slot after which the gradient is complete.
    """

    gradient: Storage
    parameter: Storage
    states_bytes: int
    made_slot: int

    @property
    def host_bytes(self) -> int:
        """What the host reads and writes."""
        return self.gradient.size_bytes + 2 * (self.parameter.size_bytes + self.states_bytes)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How an optimizer on the host goes about it.

    Attributes:
        frees_gradients: Whether gradients are freed on the device once they have left.
        waits_for_all: Whether no parameter is updated before all gradients are there.
    """

    frees_gradients: bool
    waits_for_all: bool

    def outcome(self, task: Task, stop: Stop) -> Outcome | str:
        profile, problem = task.step.profile, task.problem
        anchors = [slot.anchor for slot in profile.slots]
        if OPTIMIZER_PRE not in anchors or OPTIMIZER_POST not in anchors:
            return "the step has no optimizer step of its own"
        if f"{OPTIMIZER_PRE}#1" in anchors:
            return "the step calls several optimizers, or one more than once"
        ran = range(anchors.index(OPTIMIZER_PRE), anchors.index(OPTIMIZER_POST))
        updates = sorted(_updates(profile, ran), key=lambda update: update.made_slot)
        if not updates:
            return "its optimizer keeps no two states as Adam does, or updates during backward"
        left_us = list(_left_us(task, updates))
        rate = host_bytes_per_us(problem.link)
        device_us = sum(problem.durations_us[t] for t in ran)
        return Outcome(
            peak_bytes=max(self._held_bytes(task, ran, updates, left_us)),
            compute_us=problem.compute_us - device_us,
            stall_us=self._end_us(task, ran, updates, left_us) - problem.elapsed_us[ran.start],
            moved_bytes=sum(update.gradient.size_bytes for update in updates),
            copies=len(updates),
            assumed=f"estimated: Adam on the host at {rate_text(rate)}",
        )

    def _end_us(
        self, task: Task, ran: range, updates: list[_Update], left_us: list[float]
    ) -> float:
        """When the last updated parameter is back; backward waits for nothing."""
        link = task.problem.link
        backward_us, rate = task.problem.elapsed_us[ran.start], host_bytes_per_us(link)
        updated_us = max(backward_us, *left_us) if self.waits_for_all else 0.0
        back_us = max(backward_us, *left_us)
        for update, there_us in zip(updates, left_us, strict=True):
            updated_us = max(updated_us, there_us) + update.host_bytes / rate
            back_us = max(back_us, updated_us) + _copy_us(
                link, Direction.H2D, update.parameter.size_bytes
            )
        return back_us

    def _held_bytes(
        self, task: Task, ran: range, updates: list[_Update], left_us: list[float]
    ) -> list[int]:
        """Bytes on the device by slot: no states, and nothing that the optimizer's ops make."""
        profile, elapsed_us = task.step.profile, task.problem.elapsed_us
        ops = profile.ops

        def stays(storage: Storage) -> bool:
            made = storage.allocated_op
            by_optimizer = made is not None and made < len(ops) and ops[made].slot in ran
            return storage.kind is not StorageKind.OPTIMIZER_STATE and not by_optimizer

        without = profile.model_copy(
            update={"storages": tuple(storage for storage in profile.storages if stays(storage))}
        )
        held = [slot.resident_bytes for slot in slot_memory(without)]
        for t in ran:
            held[t] -= profile.slots[t].overhead_bytes
        for update, there_us in zip(updates, left_us, strict=True) if self.frees_gradients else ():
            gradient = update.gradient
            gone_slot = min(bisect_left(elapsed_us, there_us), ran.start + 1)
            before = ops[gradient.uses[0].op].slot if gradient.allocated_op is None else 0
            for t in (*range(before), *range(gone_slot, _end_slot(gradient))):
                held[t] -= gradient.size_bytes
        return held


def host_bytes_per_us(link: Link) -> float:
    """Returns the rate at which the host's memory is read and written by an optimizer."""
    sharing = known_sharing(link)
    known = sharing.memory if sharing else None
    return known.bytes_per_us if known else MEMORY_BYTES_PER_US


def _updates(profile: Profile, ran: range) -> Iterator[_Update]:
    """The updates of parameters with Adam's states, whose gradients are complete by then."""
    named = {storage.name: storage for storage in profile.storages}
    for storage in profile.storages:
        if storage.kind is not StorageKind.PARAMETER:
            continue
        name = storage.name.partition(":")[2]
        gradient = named.get(f"grad:{name}")
        states = [named.get(f"state:{name}.{state}") for state in STATES]
        if gradient is None or not all(states):
            continue
        written = [profile.ops[u.op].slot for u in gradient.uses if u.access is Access.WRITE]
        before = [t for t in written if t < ran.start]
        if before:
            states_bytes = sum(state.size_bytes for state in states if state)
            yield _Update(gradient, storage, states_bytes, max(before))


def _left_us(task: Task, updates: list[_Update]) -> Iterator[float]:
    """When each gradient has arrived on the host, one after the other."""
    now_us = 0.0
    for update in updates:
        made_us = task.problem.elapsed_us[update.made_slot + 1]
        size_bytes = update.gradient.size_bytes
        now_us = max(now_us, made_us) + _copy_us(task.problem.link, Direction.D2H, size_bytes)
        yield now_us


def _end_slot(storage: Storage) -> int:
    """The first slot that does without it, `END`'s included if it stays."""
    return storage.released_slot + (storage.released_op is None)


def _copy_us(link: Link, direction: Direction, size_bytes: int) -> float:
    return copy_us(link, direction, size_bytes, CopyMethod.DMA)


SIMPLIFIED = (
    "every parameter goes, whatever its size, one copy each; the host's memory is as fast as that "
    "of one socket, and copies do not slow it"
)


def _reference(name: str, source: str, rule: _Rule, about: str, known_from: KnownFrom) -> Reference:
    return Reference(
        name=name,
        rule=rule.outcome,
        source=source,
        known_from=known_from,
        simplified=f"{SIMPLIFIED}; {about}",
    )


TORCHAO = "pytorch/ao, torchao.optim.CPUOffloadOptimizer"
RUNS_AHEAD = "the host is ahead of the device, so it updates while backward goes on"
HOST_ADAM = (
    _reference(
        "ZeRO-Offload, Adam on the host",
        "Ren et al. 2021, arXiv:2101.06840; deepspeedai/DeepSpeed",
        _Rule(frees_gradients=True, waits_for_all=True),
        "on one device; no buckets, no delayed update",
        KnownFrom.OTHERS,
    ),
    _reference(
        "torchao CPU offload, Adam on the host",
        TORCHAO,
        _Rule(frees_gradients=False, waits_for_all=False),
        RUNS_AHEAD,
        KnownFrom.CODE,
    ),
    _reference(
        "torchao CPU offload, gradients as well",
        TORCHAO,
        _Rule(frees_gradients=True, waits_for_all=False),
        RUNS_AHEAD,
        KnownFrom.CODE,
    ),
)
