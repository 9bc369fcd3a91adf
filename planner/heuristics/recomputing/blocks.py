"""Blocks of a step: stretches of forward ops that belong to one module."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from planner.heuristics.recomputing.choice import Choice, RecomputeTask
from planner.problem.gaps import Gap
from profiles.schema.profile import Access


@dataclass(frozen=True)
class Blocks:
    """Consecutive stretches of the forward ops of a step.

    Attributes:
        task: The step.
        ranges: The ops of each block, in order.
        uncounted: Ops that may read what is inside another block than their own.
    """

    task: RecomputeTask
    ranges: tuple[range, ...]
    uncounted: frozenset[int] = frozenset()

    @cached_property
    def inside(self) -> tuple[tuple[Gap, ...], ...]:
        """For each block, the gaps of saved storages that no other block touches in forward."""
        block_of = [b for b, ops in enumerate(self.ranges) for _ in ops]
        storages = self.task.base.step.profile.storages
        inside: dict[int, list[Gap]] = defaultdict(list)
        for gap in self.task.saved:
            uses = storages[gap.storage].uses
            counted = (use.op for use in uses if use.op not in self.uncounted)
            blocks = {block_of[op] for op in counted if op < len(block_of)}
            if len(blocks) == 1 and self.task.effects.is_made_by_ops(storages[gap.storage]):
                inside[blocks.pop()].append(gap)
        return tuple(tuple(inside[b]) for b in range(len(self.ranges)))

    def checkpointed(
        self,
        blocks: Iterable[int],
        kept: Collection[int] = (),
        *,
        one_by_one: Collection[int] = (),
        keeps_what_it_makes: bool | None = None,
    ) -> Choice:
        """Runs blocks again, each as a whole at the first use of what it made.

        Args:
            blocks: Which ones.
            kept: Storages that stay although they are inside.
            one_by_one: Blocks that are not run as a whole, but for each storage on its own.
            keeps_what_it_makes: Whether what is made on the way for another storage is kept; only
                if there is nothing `one_by_one` if None.
        """
        groups = {
            b: [gap for gap in self.inside[b] if gap.storage not in kept] for b in sorted(blocks)
        }
        split = {
            b: [[gap] for gap in group] if b in one_by_one else [group]
            for b, group in groups.items()
        }
        keeps = not one_by_one if keeps_what_it_makes is None else keeps_what_it_makes
        return self.dropping(split, kept, keeps_what_it_makes=keeps)

    def dropping(
        self,
        split: Mapping[int, Sequence[Sequence[Gap]]],
        kept: Collection[int],
        *,
        keeps_what_it_makes: bool,
    ) -> Choice:
        """Drops groups of gaps inside blocks; what enters the blocks stays for as long as needed.

        Args:
            split: By block: its groups, each rebuilt at the first use of any of its gaps.
            kept: Storages that stay although they are inside.
            keeps_what_it_makes: Whether what is made on the way for another group is kept.
        """
        until: dict[int, int] = {}
        for b, parts in split.items():
            slot = max(
                (min(gap.next_use_slot for gap in part) for part in parts if part), default=0
            )
            for storage in self._inputs(b, [gap for part in parts for gap in part], kept):
                until[storage] = max(slot, until.get(storage, 0))
        task = self.task.keeping(until)
        groups = [part for parts in split.values() for part in parts]
        everything = task.dropping(groups, keeps_what_it_makes=keeps_what_it_makes)
        if everything is not None:
            return everything
        # Blocks with an op that nobody may run twice stay as they are.
        can = [group for group in groups if task.dropping([group]) is not None]
        return task.dropping(can, keeps_what_it_makes=keeps_what_it_makes) or Choice(task)

    def _inputs(self, block: int, group: Sequence[Gap], kept: Collection[int]) -> Iterator[int]:
        """What is made before a block and read by the ops of it that are run again."""
        does, ops = self.task.effects.ops, self.ranges[block]
        storages = self.task.base.step.profile.storages
        wanted = {gap.storage for gap in group}
        for op in reversed(ops):
            if not does[op].writes & wanted:
                continue
            for storage in does[op].reads:
                allocated_op = storages[storage].allocated_op
                if allocated_op is None:
                    continue
                if storage not in kept and allocated_op in ops:
                    wanted.add(storage)
                else:
                    yield storage


def blocks_at(task: RecomputeTask, depth: int) -> Blocks:
    """Returns the blocks that so many parts of modules' names tell apart.

    An op belongs to the leaf module entered last, so what a block does after its last leaf (adding
    to the residual, say) is its own as well.
    """
    ops = task.base.step.profile.ops[: task.turn_op]
    names = [".".join(op.module.split(".")[:depth]) for op in ops]
    return cut_at(task, [k for k in range(1, len(names)) if names[k] != names[k - 1]])


def cut_at(task: RecomputeTask, cuts: Iterable[int]) -> Blocks:
    """Returns the blocks that begin at some ops."""
    edges = pairwise([0, *cuts, task.turn_op])
    return Blocks(task, tuple(range(a, b) for a, b in edges if a < b))


def depths(task: RecomputeTask) -> range:
    """Returns the depths at which the modules of a step can be told apart."""
    return range(1, 1 + max(op.module.count(".") + 1 for op in task.base.step.profile.ops))


def maker(task: RecomputeTask, gap: Gap) -> int | None:
    """Returns the first op that writes what a gap holds; None if none does."""
    uses = task.base.step.profile.storages[gap.storage].uses
    return next((use.op for use in uses if use.access is Access.WRITE), None)
