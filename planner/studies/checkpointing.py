"""Full activation checkpointing as a cost: what recomputing everything would take, and save.

Chen et al. 2016, arXiv:1604.06174: keep what enters a block, drop what is made inside it, and run
the block's forward once more before its backward. Nothing moves. Blocks are the modules of one
depth of the model: the depth at which the step needs the least memory. All of it is estimated from
the profile: a block's second forward takes as long as its first, and needs no more memory than the
slot it runs before.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from planner.heuristics.task import Task
from planner.plan.device_memory import Absence, resident_bytes


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Estimated cost of checkpointing so many blocks: the time of their second forward, and the
    most bytes resident in any slot."""

    blocks: int
    recompute_us: float
    peak_bytes: int


def full_checkpointing(task: Task) -> Checkpointing:
    """Returns the cost at the depth of blocks that needs the least memory."""
    depths = max((op.module.count(".") + 1 for op in task.step.profile.ops), default=1)
    costs = [_cost(task, depth) for depth in range(1, depths + 1)]
    return min(costs, key=lambda cost: (cost.peak_bytes, cost.recompute_us))


def _cost(task: Task, depth: int) -> Checkpointing:
    block_of_slot = _blocks(task, depth)
    inside: dict[int, list[int]] = defaultdict(list)
    for i in task.activations():
        block = _only_block(task, i, block_of_slot)
        if block is not None:
            inside[block].append(i)
    held_bytes = resident_bytes(task.problem.resident_bytes, _absences(task, inside))
    recompute_us = sum(
        duration_us
        for duration_us, block in zip(task.problem.durations_us, block_of_slot, strict=False)
        if block in inside
    )
    return Checkpointing(blocks=len(inside), recompute_us=recompute_us, peak_bytes=max(held_bytes))


def _absences(task: Task, inside: dict[int, list[int]]) -> Iterator[Absence]:
    """What a block made is gone from its last forward use to the block's backward."""
    for dropped in inside.values():
        again_slot = min(task.gaps[i].next_use_slot for i in dropped)
        for i in dropped:
            gap = task.gaps[i]
            if gap.first_slot < again_slot:
                yield Absence(gap.first_slot, again_slot, gap.size_bytes)


def _blocks(task: Task, depth: int) -> list[int]:
    """The block of each forward slot: runs of ops in the same module, cut at a depth."""
    step = task.step
    names: list[str] = [""] * step.turn_slot
    for op in step.profile.ops:
        if op.slot < step.turn_slot:
            names[op.slot] = ".".join(op.module.split(".")[:depth])
    for t, name in enumerate(names):
        # A slot without ops belongs to the block before it.
        names[t] = name or (names[t - 1] if t else "")
    return list(accumulate((a != b for a, b in pairwise(names)), initial=0))


def _only_block(task: Task, i: int, block_of_slot: list[int]) -> int | None:
    """The block whose forward alone touches a storage; None if several do."""
    step = task.step
    uses = step.profile.storages[task.gaps[i].storage].uses
    slots = [step.slot_of_op(use.op) for use in uses]
    blocks = {block_of_slot[t] for t in slots if t < step.turn_slot}
    return blocks.pop() if len(blocks) == 1 else None
