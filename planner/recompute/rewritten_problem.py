"""The problem that is left when some gaps are dropped: swaps, in the step that rebuilds them.

It is the problem of the profile that `planner.recompute.rewriting` makes, to the byte (a test holds
both against each other), found without making that profile: a search asks for thousands of them.
Storages keep the ids they had.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

from planner.problem.gaps import (
    Gap,
    UseSlot,
    candidate_gaps,
    gaps_of,
    in_order,
    use_slots,
    useful_gaps,
)
from planner.problem.problem import Problem, with_parts
from planner.recompute.overhead import Overhead
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, recompute_us
from profiles.schema.memory import Moment, bytes_at
from profiles.schema.profile import Storage


class ProblemRewriter:
    """Makes the problems of one step in which one or the other set of gaps is dropped.

    Attributes:
        effects: The step.
        problem: The problem with nothing dropped.
        gaps: All gaps of the step that are large enough, in order.
    """

    def __init__(self, effects: StepEffects, problem: Problem) -> None:
        profile = effects.profile
        self.effects = effects
        self.problem = problem
        self.gaps = candidate_gaps(profile, problem.min_size_bytes, problem.boundary)
        slots = range(len(profile.slots))
        self._anchor_bytes = bytes_at(profile, [Moment(t, None) for t in slots])
        at_ops = bytes_at(profile, [Moment(op.slot, k) for k, op in enumerate(profile.ops)])
        first_op = (*effects.first_op, len(profile.ops))
        self._op_bytes = [max(at_ops[first_op[t] : first_op[t + 1]], default=0) for t in slots]
        self._overhead = Overhead(profile)
        self._uses: dict[int, list[UseSlot]] = {}

    def without(self, found: Sequence[Rebuilding]) -> Problem:
        """Returns the problem in which some recipes are run."""
        again_us = recompute_us(self.effects.profile, found)
        resident_bytes = self.resident_bytes(found)
        gaps = in_order(self._gaps(found))
        problem = self.problem
        durations_us = tuple(
            slot.duration_us + us
            for slot, us in zip(self.effects.profile.slots, again_us, strict=True)
        )
        return with_parts(
            replace(
                problem,
                durations_us=durations_us,
                resident_bytes=resident_bytes,
                whole_gaps=useful_gaps(gaps, resident_bytes, problem.budget_bytes),
                part_gaps=(),
            )
        )

    def resident_bytes(self, found: Sequence[Rebuilding]) -> tuple[int, ...]:
        """Returns the most bytes of each slot, at its anchor, while ops run again or at its ops."""
        count = self.problem.slot_count
        at_anchors, at_ops = [0] * (count + 1), [0] * (count + 1)
        for rebuilding in found:
            back = rebuilding.recipe.slot
            for gap in rebuilding.gaps:
                for change, end in ((at_anchors, back + 1), (at_ops, back)):
                    change[gap.first_slot] -= gap.size_bytes
                    change[end] += gap.size_bytes
        anchors = [a + b for a, b in zip(self._anchor_bytes, accumulate(at_anchors), strict=False)]
        ops = [a + b for a, b in zip(self._op_bytes, accumulate(at_ops), strict=False)]
        most = [max(pair) for pair in zip(anchors, ops, strict=True)]
        for rebuilding in found:
            t = rebuilding.recipe.slot
            anchors[t], peak_bytes = self._run(rebuilding, anchors[t])
            most[t] = max(most[t], peak_bytes)
        beyond = self._overhead.with_recipes(rebuilding.recipe for rebuilding in found)
        return tuple(a + b for a, b in zip(most, beyond, strict=True))

    def _run(self, rebuilding: Rebuilding, held_bytes: int) -> tuple[int, int]:
        """Runs a recipe; returns the bytes held after it, and the most held meanwhile."""
        storages, ops = self.effects.profile.storages, self.effects.ops
        kept = {gap.storage for gap in rebuilding.gaps}
        made: set[int] = set()
        last: dict[int, int] = {}
        order = sorted(rebuilding.recipe.ops)
        for op in order:
            for storage in (ops[op].reads | ops[op].writes) & rebuilding.recipe.made.keys():
                last[storage] = op
        peak_bytes = 0
        for op in order:
            touched = (ops[op].reads | ops[op].writes) & rebuilding.recipe.made.keys()
            held_bytes += sum(storages[s].size_bytes for s in touched - made)
            made |= touched
            peak_bytes = max(peak_bytes, held_bytes)
            done = {s for s in touched - kept if last[s] == op}
            held_bytes -= sum(storages[s].size_bytes for s in done)
        return held_bytes, peak_bytes

    def _gaps(self, found: Sequence[Rebuilding]) -> Iterable[Gap]:
        """The gaps of what is dropped or read by recipes change; all others stay."""
        lives: dict[int, list[tuple[int, int]]] = {}
        reads: dict[int, set[int]] = {}
        for rebuilding in found:
            for gap in rebuilding.gaps:
                lives.setdefault(gap.storage, []).append((gap.first_slot, rebuilding.recipe.slot))
            for found_id in rebuilding.recipe.found:
                reads.setdefault(found_id, set()).add(rebuilding.recipe.slot)
        changed = lives.keys() | reads.keys()
        yield from (gap for gap in self.gaps if gap.storage not in changed)
        for storage_id in sorted(changed):
            storage = self.effects.profile.storages[storage_id]
            small = storage.size_bytes < max(1, self.problem.min_size_bytes)
            if storage.left_out is None and not small:
                yield from self._gaps_of(
                    storage, sorted(lives.get(storage_id, [])), reads.get(storage_id, set())
                )

    def _gaps_of(
        self, storage: Storage, drops: Sequence[tuple[int, int]], reads: set[int]
    ) -> Iterable[Gap]:
        uses = self._uses_of(storage, reads)
        count, boundary = self.problem.slot_count, self.problem.boundary
        begins = [(-1, False), *((back, True) for _, back in drops)]
        ends = [*(first for first, _ in drops), count]
        version = 0
        for n, ((begin, rebuilt), end) in enumerate(zip(begins, ends, strict=True)):
            life = [use for use in uses if begin <= use.slot < end]
            if rebuilt:
                life = [UseSlot(begin, writes=True), *(u for u in life if u.slot > begin)]
            # A life that a drop ends does not go on to the end of the step.
            lived = storage.model_copy(update={"released_op": -1}) if n < len(drops) else storage
            for gap in gaps_of(lived, life, count, boundary):
                yield replace(gap, version=gap.version + version) if version else gap
            version += len(life) + 1

    def _uses_of(self, storage: Storage, reads: set[int]) -> list[UseSlot]:
        if storage.id not in self._uses:
            self._uses[storage.id] = use_slots(self.effects.profile, storage)
        known = self._uses[storage.id]
        new = reads - {use.slot for use in known}
        return sorted([*known, *(UseSlot(slot, writes=False) for slot in new)])
