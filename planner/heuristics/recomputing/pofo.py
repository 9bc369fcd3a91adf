"""POFO: a chain's stages are kept, offloaded or run again, as its dynamic program says.

The program is in `planner.heuristics.recomputing.pofo_chain`; here is the chain that a step is to
it, and what its solution is in the step. The stages are blocks of one depth. Its memory is a model:
so the plan is made, its peak is measured, and the budget that the program is given is moved.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate

import numpy as np

from planner.heuristics.heuristic import KnownFrom, Swaps
from planner.heuristics.recomputing.blocks import Blocks, blocks_at, depths
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from planner.heuristics.recomputing.pofo_chain import Chain, Solution, Stretch
from planner.heuristics.recomputing.rotor import Rotor, Stage
from planner.heuristics.task import Task
from planner.plan.lanes import Direction, rate_bytes_per_us
from planner.problem.gaps import Gap
from planner.problem.timed_swap import held_bytes

MAX_STAGES = 80
"""Chains of more stages are left to rotor's and POFO's authors: a table grows as their cube."""
ROUNDS = 6
MAX_CHAINS = 2
"""So many of them are made plans of, those of which the program promises the most."""


def _plan(task: RecomputeTask, stop: Stop) -> Choice:
    found = [Choice(task)]
    if found[0].over_bytes:
        budget_bytes = task.base.problem.budget_bytes
        promised = [(chain, chain.solution(budget_bytes, stop)) for chain in _chains(task)]
        # The least time first; where there is no solution, the most stages, which need the least.
        promised.sort(key=lambda one: (one[1].us if one[1] else math.inf, -one[0].count))
        for chain, solution in promised[:MAX_CHAINS]:
            found.append(chain.best(solution, stop))
            if stop():
                break
    best = min(found, key=lambda choice: (choice.over_bytes, choice.step_us))
    return replace(best, was_stopped=stop())


def _chains(task: RecomputeTask) -> Iterator["_StepChain"]:
    """The blocks of every depth that tells some of them apart, but not too many."""
    seen: set[tuple[range, ...]] = set()
    for depth in depths(task):
        blocks = blocks_at(task, depth)
        if 1 < len(blocks.ranges) <= MAX_STAGES and blocks.ranges not in seen:
            seen.add(blocks.ranges)
            yield _StepChain(blocks)


@dataclass(frozen=True)
class _StepChain:
    """A step as a chain.

    Attributes:
        blocks: Its stages.
    """

    blocks: Blocks

    @property
    def count(self) -> int:
        """How many stages it has."""
        return len(self.blocks.ranges)

    def solution(self, budget_bytes: int, stop: Stop) -> Solution | None:
        """Returns the program's solution for a budget; None if there is none, or no time."""
        link = self.blocks.task.base.problem.link
        out, back = (rate_bytes_per_us(link, way) for way in (Direction.D2H, Direction.H2D))
        return Chain(self.rotor, budget_bytes, out, back).solution(stop)

    def best(self, solution: Solution | None, stop: Stop) -> Choice:
        """Returns the best of a few plans, by bytes over the budget, then by time.

        Args:
            solution: That for the budget itself.
            stop: Whether to make do with what there is.
        """
        problem = self.blocks.task.base.problem
        best, asked = Choice(self.blocks.task), problem.budget_bytes
        low, high = 0, max(problem.resident_bytes)
        for _ in range(ROUNDS):
            choice = None if solution is None else self._planned(solution)
            if choice is not None:
                best = min(best, choice, key=lambda one: (one.over_bytes, one.step_us))
            if choice is None or choice.over_bytes == 0:
                low = asked
            else:
                high = asked
            free = best.over_bytes == 0 and best.step_us <= problem.compute_us
            if free or stop() or high - low <= problem.budget_bytes // 100:
                break
            asked = (low + high) // 2
            solution = self.solution(asked, stop)
        return best

    def _planned(self, solution: Solution) -> Choice:
        """The step that a solution makes of it."""
        again = [stretch for stretch in solution.stretches if stretch.runs_again]
        blocks = self.blocks.ranges
        merged = replace(
            self.blocks,
            ranges=tuple(
                range(blocks[one.first].start, blocks[one.last].stop) for one in solution.stretches
            ),
        )
        split = {
            n: self._groups(one, merged.inside[n])
            for n, one in enumerate(solution.stretches)
            if one in again
        }
        choice = merged.dropping(split, (), keeps_what_it_makes=False)
        return choice.moving(partial(_swaps, offloaded=self._offloaded(solution.stretches)))

    def _groups(self, stretch: Stretch, inside: tuple[Gap, ...]) -> list[list[Gap]]:
        """What each pass over a stretch rebuilds."""
        passes = self.rotor.passes(stretch.first, stretch.last, stretch.memory_bytes)
        saving = {b: n for n, one in enumerate(passes) for b in one.saves}
        keeping = {b: n for n, one in enumerate(passes) for b in one.keeps}
        groups: list[list[Gap]] = [[] for _ in passes]
        for gap in inside:
            b = self._block_of[self._made_by(gap.storage)]
            n = saving[b] if gap in self.blocks.inside[b] else keeping.get(b + 1, saving[b])
            groups[n].append(gap)
        return [group for group in groups if group]

    def _offloaded(self, stretches: tuple[Stretch, ...]) -> set[int]:
        """Storages that go to the host."""
        offloaded: set[int] = set()
        saved = False
        for one in stretches:
            if one.offloads:
                offloaded |= set(self._entering[one.first])
                if saved:
                    offloaded |= {gap.storage for gap in self.blocks.inside[one.first - 1]}
            saved = not one.runs_again
        return offloaded

    @cached_property
    def rotor(self) -> Rotor:
        """What running stretches again takes."""
        return Rotor(self._stages, max(self.blocks.task.base.problem.resident_bytes))

    @cached_property
    def _stages(self) -> tuple[Stage, ...]:
        task = self.blocks.task
        ops, storages = task.base.step.profile.ops, task.base.step.profile.storages
        starts, elapsed_us = self._backward_starts, task.base.problem.elapsed_us
        saved = {gap.storage: gap for gap in task.saved}
        forward = [range(ops[r[0]].slot, ops[r[-1]].slot + 1) for r in self.blocks.ranges]
        stages = []
        for b in range(self.count):
            entering = self._entering[b]
            stages.append(
                Stage(
                    forward_us=sum(ops[op].duration_us for op in self.blocks.ranges[b]),
                    backward_us=elapsed_us[starts[b]] - elapsed_us[starts[b + 1]],
                    input_bytes=sum(storages[s].size_bytes for s in entering),
                    saved_input_bytes=sum(saved[s].size_bytes for s in entering if s in saved),
                    saved_bytes=sum(gap.size_bytes for gap in self.blocks.inside[b]),
                    forward_bytes=self._most_bytes(forward[b], b),
                    backward_bytes=self._most_bytes(range(starts[b + 1], starts[b]), b),
                )
            )
        return tuple(stages)

    @cached_property
    def _backward_starts(self) -> list[int]:
        """Where backward of each block ends, and last where that of the last one begins.

        Backward of a block goes on to where that of the block before it first asks for something.
        """
        task = self.blocks.task
        end = 1 + max((gap.next_use_slot for gap in task.saved), default=task.base.step.turn_slot)
        first = (min((gap.next_use_slot for gap in gaps), default=end) for gaps in self._managed)
        return [*list(accumulate(first, min, initial=end))[:-1], task.base.step.turn_slot]

    def _most_bytes(self, slots: range, b: int) -> int:
        """Most bytes held in some slots without what earlier blocks keep for backward."""
        problem = self.blocks.task.base.problem
        kept = [gap for k in range(b) for gap in self._managed[k]]
        return max(
            (
                problem.resident_bytes[t]
                - sum(g.size_bytes for g in kept if g.first_slot <= t < g.next_use_slot)
                for t in slots
            ),
            default=0,
        )

    @cached_property
    def _managed(self) -> list[list[Gap]]:
        """By block: the gaps that its stage decides on, inside it and of what enters it."""
        managed = [list(gaps) for gaps in self.blocks.inside]
        block_of = {s: b for b, entering in enumerate(self._entering) for s in entering}
        for gap in self.blocks.task.saved:
            if gap.storage in block_of:
                managed[block_of[gap.storage]].append(gap)
        return managed

    @cached_property
    def _entering(self) -> list[list[int]]:
        """By block: what the one before it makes and no later one reads in forward."""
        task, entering = self.blocks.task, defaultdict[int, list[int]](list)
        for storage in task.base.step.profile.storages:
            if not task.effects.is_made_by_ops(storage):
                continue
            used = {self._block_of[u.op] for u in storage.uses if u.op < task.turn_op}
            if used and max(used) == min(used) + 1:
                entering[max(used)].append(storage.id)
        return [entering[b] for b in range(len(self.blocks.ranges))]

    @cached_property
    def _block_of(self) -> list[int]:
        return [b for b, ops in enumerate(self.blocks.ranges) for _ in ops]

    def _made_by(self, storage: int) -> int:
        allocated_op = self.blocks.task.base.step.profile.storages[storage].allocated_op
        assert allocated_op is not None, "ops made all that is inside"
        return allocated_op


def _swaps(left: Task, offloaded: set[int]) -> Swaps:
    """Out in order, as soon as it is idle; back in order of use, as late as the link allows."""
    problem, gaps = left.problem, left.gaps
    chosen = [i for i in left.activations() if gaps[i].storage in offloaded]
    elapsed_us = problem.elapsed_us
    released, free_us = {}, 0.0
    for i in chosen:
        free_us = max(free_us, elapsed_us[gaps[i].first_slot]) + problem.d2h_us[i]
        released[i] = min(bisect_left(elapsed_us, free_us), gaps[i].next_use_slot - 1)
    fetched, until_us = {}, math.inf
    for i in sorted(chosen, key=lambda i: -gaps[i].next_use_slot):
        until_us = min(until_us, elapsed_us[gaps[i].next_use_slot]) - problem.h2d_us[i]
        fetched[i] = max(bisect_right(elapsed_us, until_us) - 1, released[i] + 1)
    return _with_waits(left, [left.swap(i, released[i], fetched[i]) for i in chosen])


def _with_waits(left: Task, swaps: Swaps) -> Swaps:
    """Where it does not fit yet, what is on its way out is waited for, the first one first, and
    what is on its way back comes later."""
    problem, found = left.problem, list(swaps)
    held = np.array(held_bytes(problem, found))
    for t in np.flatnonzero(held > problem.budget_bytes):
        for n, swap in enumerate(found):
            gap = left.gaps[swap.gap]
            if held[t] <= problem.budget_bytes:
                break
            if swap.swap_out_slot <= t < swap.release_slot:
                held[t : swap.release_slot] -= gap.size_bytes
                found[n] = swap._replace(release_slot=int(t))
            elif swap.swap_in_slot <= t < gap.next_use_slot:
                held[swap.swap_in_slot : t + 1] -= gap.size_bytes
                found[n] = swap._replace(swap_in_slot=int(t) + 1)
    return found


POFO = Recomputing(
    name="POFO",
    source="Beaumont et al. 2021, NeurIPS",
    known_from=KnownFrom.OTHERS,
    simplified="stages are the modules of one depth, the best of two; what two stages that "
    "are not neighbours share stays; backward of a stretch has no room for what is yet to be "
    "fetched; the program's budget is the one of a few whose plan fits",
    rule=_plan,
)
