"""torchtitan's planner: keep, recompute or offload, layer by layer, then tensor by tensor.

As in pytorch/torchtitan's pull requests 3975 and 4636 (`auto_perf_maxing`, open), which were read.
An outer LP gives each layer fractions of its bytes to keep, to recompute and to offload (k + r + o
= 1): offload costs nothing but must hide within the layer itself, o * bytes <= rate * time of its
forward, and likewise backward; recompute costs its share of the layer's time. An inner ILP per
layer picks tensors for these fractions. The plan is made, its peak is measured, the cap is moved,
up to 12 times (8 here). Copies are waited for one layer later, and issued back one layer ahead.

Layers are mostly equal, and then the LP has no preference: here all are given the same fraction to
recompute, the least that fits. What costs least to recompute for its bytes is found by a knapsack.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.blocks import Blocks, maker
from planner.heuristics.recomputing.checkpointing import layers_of, with_small_gaps
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from planner.heuristics.recomputing.memory_budget import knapsack
from planner.heuristics.task import Task
from planner.plan.lanes import Direction, rate_bytes_per_us
from planner.problem.gaps import Gap
from planner.problem.timed_swap import TimedSwap
from profiles.hardware.op_class import OpClass

MIN_BYTES = 2**20
ROUNDS = 8


def _plan(task: RecomputeTask, stop: Stop) -> Choice:
    if task.base.problem.fits(()):
        return Choice(task)
    layers = _Layers(replace(layers_of(task), task=with_small_gaps(task, MIN_BYTES)))
    best = layers.choice(0.0)
    if best.over_bytes == 0:
        return best
    low, high, best = 0.0, 1.0, layers.choice(1.0)
    for _ in range(ROUNDS):
        if stop():
            break
        middle = (low + high) / 2
        choice = layers.choice(middle)
        if choice.over_bytes == 0:
            high, best = middle, choice
        else:
            low = middle
    return best


@dataclass(frozen=True)
class _Window:
    """When a layer runs: its last forward slot, and from where on backward asks for it."""

    last_slot: int
    back_slot: int


class _Layers:
    """The layers of a step, with what of each is offloaded."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._task = task = blocks.task
        ops = task.base.step.profile.ops
        turn, ranges = task.base.step.turn_slot, self._blocks.ranges
        backs = [min((g.next_use_slot for g in gaps), default=turn) for gaps in self._blocks.inside]
        self._windows = [
            _Window(ops[block[-1]].slot, back) for block, back in zip(ranges, backs, strict=True)
        ]
        self._offloaded = [self._offloads(b) for b in range(len(ranges))]

    def choice(self, fraction: float) -> Choice:
        """Recomputes a fraction of each layer's bytes."""
        blocks = self._blocks
        kept = {gap.storage for gaps in self._offloaded for gap in gaps}
        for gaps in blocks.inside:
            rest = [gap for gap in gaps if gap.storage not in kept]
            kept |= {gap.storage for gap in self._saved(rest, fraction)}
        found = blocks.checkpointed(range(len(blocks.ranges)), kept)
        return found.moving(self._swaps)

    def _saved(self, gaps: list[Gap], fraction: float) -> Iterator[Gap]:
        """What is dearest to recompute within the bytes that stay; random results always."""
        ops = self._task.base.step.profile.ops
        makers = [maker(self._task, gap) for gap in gaps]
        total = sum(gap.size_bytes for gap in gaps)
        values = [0.0 if op is None else ops[op].duration_us for op in makers]
        room = 1.0 - fraction
        chosen = knapsack([gap.size_bytes / total for gap in gaps], values, room) if total else ()
        for n, (gap, op) in enumerate(zip(gaps, makers, strict=True)):
            if n in chosen or op is None or self._task.op_class(op) is OpClass.RANDOM:
                yield gap

    def _offloads(self, b: int) -> list[Gap]:
        """The largest tensors whose copies hide within the layer, both ways; not of the last."""
        if b + 1 == len(self._windows):
            return []
        problem, ops = self._task.base.problem, self._task.base.step.profile.ops
        forward_us = sum(ops[op].duration_us for op in self._blocks.ranges[b])
        back_slot = self._windows[b].back_slot
        until = min((w.back_slot for w in self._windows if w.back_slot > back_slot), default=None)
        until = problem.slot_count - 1 if until is None else until
        back_us = problem.elapsed_us[until] - problem.elapsed_us[back_slot]
        room = min(
            rate_bytes_per_us(problem.link, Direction.D2H) * forward_us,
            rate_bytes_per_us(problem.link, Direction.H2D) * back_us,
        )
        chosen = []
        for gap in sorted(self._blocks.inside[b], key=lambda gap: -gap.size_bytes):
            if problem.min_size_bytes <= gap.size_bytes <= room:
                chosen.append(gap)
                room -= gap.size_bytes
        return chosen

    def _swaps(self, left: Task) -> Iterator[TimedSwap]:
        """Waited for when the next layer has ended, back when the layer before begins backward."""
        layer_of = {gap.storage: b for b, gaps in enumerate(self._offloaded) for gap in gaps}
        for i in left.activations():
            gap = left.gaps[i]
            b = layer_of.get(gap.storage)
            if b is None:
                continue
            release_slot = max(self._windows[b + 1].last_slot, gap.first_slot)
            ahead = self._windows[b + 1].back_slot
            in_slot = min(max(ahead, release_slot + 1), gap.next_use_slot)
            if release_slot < in_slot:
                yield left.swap(i, release_slot, in_slot)


TORCHTITAN_PLAN = Recomputing(
    name="torchtitan keep/recompute/offload",
    source="pytorch/torchtitan, auto_perf_maxing, pull requests 3975 and 4636",
    known_from=KnownFrom.CODE,
    simplified="layers are the largest blocks that checkpointing does nearly as well with; the "
    "same fraction of every layer is recomputed, and the largest tensors that hide are offloaded",
    rule=_plan,
)
