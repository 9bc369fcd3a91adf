"""torch.compile's `activation_memory_budget`: a share of saved bytes, filled by a knapsack.

As in torch 2.13's `_functorch/partitioners.py` (`choose_saved_values_set`) and
`_activation_checkpointing/knapsack.py` (`dp_knapsack`), which were read. At share 1 what autograd
saves is saved. Below, everything is recomputed but for the results of ops that are banned from it:
products, convolutions and attention, reductions, and random ops. If even that is more than the
share, a knapsack says which of the banned ops' results are saved: those that took the most time
together within the share of bytes; the others are recomputed as well, but for random ones.

The share is no peak ("cannot be treated as" one, says torch), and a smaller one may need more: so
shares are tried from the largest down, and the first one whose peak fits the budget counts.
"""

from dataclasses import replace

import numpy as np

from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.blocks import cut_at
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass

SHARES = tuple(n / 10 for n in range(10, -1, -1))
QUANTA = 10_000
"""The knapsack counts bytes in so many parts of all that is saved."""


def knapsack(sizes: list[float], values: list[float], most: float) -> set[int]:
    """Returns the items worth the most together whose sizes, shares of one, are within a share."""
    steps = [round(size * QUANTA) for size in sizes]
    room = round(most * QUANTA)
    best = np.zeros((len(steps) + 1, room + 1))
    for n, (step, value) in enumerate(zip(steps, values, strict=True)):
        best[n + 1] = best[n]
        if step <= room:
            taken = best[n, : room + 1 - step] + value
            best[n + 1, step:] = np.maximum(best[n, step:], taken)
    chosen = set()
    for n in range(len(steps), 0, -1):
        if best[n, room] != best[n - 1, room]:
            chosen.add(n - 1)
            room -= steps[n - 1]
    return chosen


def _plan(task: RecomputeTask, stop: Stop) -> Choice:
    found = [Choice(task)]
    for share in SHARES[1:]:
        if found[-1].over_bytes == 0:
            return found[-1]
        if len(found) > 1 and stop():
            break
        found.append(_at_share(task, share))
    least = min(found, key=lambda choice: (choice.over_bytes, choice.step_us))
    return replace(least, was_stopped=len(found) < len(SHARES))


def _at_share(task: RecomputeTask, share: float) -> Choice:
    saved_bytes = sum(gap.size_bytes for gap in task.saved)
    banned = {op: size for op, size in _banned(task).items() if size > 0}
    if sum(banned.values()) <= share * saved_bytes:
        return _saving(task, set(banned))
    ops = task.base.step.profile.ops
    random = {op for op in banned if task.op_class(op) is OpClass.RANDOM}
    items = sorted(banned.keys() - random, key=lambda op: -banned[op])
    room = share - sum(banned[op] for op in random) / saved_bytes
    chosen = knapsack(
        [banned[op] / saved_bytes for op in items],
        [ops[op].duration_us for op in items],
        max(0.0, room),
    )
    return _saving(task, random | {items[n] for n in chosen})


def _banned(task: RecomputeTask) -> dict[int, int]:
    """Forward ops that are not recomputed for nothing, with the bytes of theirs that are saved."""
    saved = {gap.storage for gap in task.saved}
    classes = (*COMPUTE_CLASSES, OpClass.REDUCTION, OpClass.RANDOM)
    storages = task.base.step.profile.storages
    return {
        op: sum(storages[s].size_bytes for s in task.made_by(op) if s in saved)
        for op in range(task.turn_op)
        if task.op_class(op) in classes
    }


def _saving(task: RecomputeTask, ops: set[int]) -> Choice:
    """Saves what some ops make, and recomputes the rest from it, each as late as it can be."""
    segments = replace(cut_at(task, sorted(ops)), uncounted=frozenset(ops))
    kept = {storage for op in ops for storage in task.made_by(op)}
    every = range(len(segments.ranges))
    return segments.checkpointed(every, kept, one_by_one=every, keeps_what_it_makes=True)


MEMORY_BUDGET = Recomputing(
    name="torch activation memory budget",
    source="torch 2.13, activation_memory_budget with dp_knapsack",
    known_from=KnownFrom.CODE,
    simplified="eager ops, nothing is fused; instead of a minimum cut all that may be recomputed "
    "is, from what enters each stretch between saved ops; the share is the largest of eleven "
    "whose peak fits",
    rule=_plan,
)
