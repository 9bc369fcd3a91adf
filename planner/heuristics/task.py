"""What every heuristic is given: a step layer by layer, gaps it may use, a link and a budget."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from planner.plan.plan import Boundary
from planner.problem.gaps import Gap, candidate_gaps
from planner.problem.problem import Problem, problem_of
from planner.problem.timed_swap import TimedSwap
from profiles.hardware.op_class import COMPUTE_CLASSES, class_of
from profiles.schema.memory import slot_memory
from profiles.schema.profile import PACK, PRE, UNPACK, Link, Op, Profile, StorageKind

OPTIMIZER = "optimizer:"


class Layer(NamedTuple):
    """A stretch of slots that belongs to one leaf module's forward or backward.

    Attributes:
        first_slot: Its first slot.
        end_slot: The first slot after it.
        is_heavy: Whether it convolves or multiplies matrices (attention included).
    """

    first_slot: int
    end_slot: int
    is_heavy: bool


@dataclass(frozen=True)
class StepView:
    """What layer-wise rules need to know of a profile.

    A forward layer reaches from one leaf module's entry to the next one's. A backward layer is a
    run of slots whose last saved tensor was packed in the same forward layer. In a step without
    such anchors every slot is a layer.
    """

    profile: Profile

    @property
    def slot_count(self) -> int:
        """Number of slots."""
        return len(self.profile.slots)

    @cached_property
    def turn_slot(self) -> int:
        """Where backward begins: the first saved tensor is asked for.

        Without such anchors, the first slot in which the most bytes are resident.
        """
        for t, (word, _) in enumerate(self._anchors):
            if word == UNPACK:
                return t
        held_bytes = [slot.resident_bytes for slot in slot_memory(self.profile)]
        return held_bytes.index(max(held_bytes))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in program order: forward, backward, optimizer."""
        heavy_slots = {op.slot for op in self.profile.ops if _is_heavy(op)}
        firsts = [0, *self._layer_begins(), self.slot_count]
        return tuple(
            Layer(first, end, not heavy_slots.isdisjoint(range(first, end)))
            for first, end in pairwise(firsts)
            if first < end
        )

    def layer_at(self, slot: int) -> int:
        """Returns the index of the layer that a slot belongs to."""
        return bisect_right(self.layers, slot, key=lambda layer: layer.first_slot) - 1

    @cached_property
    def heavy_us(self) -> tuple[float, ...]:
        """Time of each op that convolves or multiplies matrices; 0 for the others."""
        return tuple(op.duration_us if _is_heavy(op) else 0.0 for op in self.profile.ops)

    def op_of_use(self, storage: int, slot: int) -> int:
        """Returns the first op that uses a storage from a slot on; the number of ops if none."""
        ops = self.profile.ops
        uses = self.profile.storages[storage].uses
        return next((use.op for use in uses if ops[use.op].slot >= slot), len(ops))

    def slot_of_op(self, op: int) -> int:
        """Returns the slot an op runs in; the last slot for the number of ops."""
        if op >= len(self.profile.ops):
            return self.slot_count - 1
        return self.profile.ops[max(0, op)].slot

    @cached_property
    def _anchors(self) -> tuple[tuple[str, str], ...]:
        """Word and key of each anchor; an anchor seen again loses its count."""
        keys = (slot.anchor.split("#")[0].partition(":") for slot in self.profile.slots)
        return tuple((word + colon, key) for word, colon, key in keys)

    def _layer_begins(self) -> Iterator[int]:
        if not any(word == PRE for word, _ in self._anchors):
            yield from range(1, self.slot_count)
            return
        layer, last = 0, -1
        packed: dict[str, int] = {}
        for t, (word, key) in enumerate(self._anchors):
            if word == PRE and t < self.turn_slot:
                layer += 1
            elif word == PACK:
                packed[key] = layer
            elif word == UNPACK:
                layer = packed.get(key, layer)
            elif word == OPTIMIZER:
                layer = -2
            if t and (layer != last or t == self.turn_slot):
                yield t
            last = layer


def _is_heavy(op: Op) -> bool:
    """Whether an op, named such as `aten.addmm.default`, is bound by arithmetic."""
    name = op.name.split(".")[1] if "." in op.name else op.name
    return class_of(name) in COMPUTE_CLASSES


@dataclass(frozen=True)
class Task:
    """One planning task.

    Attributes:
        step: The step.
        problem: The gaps, the link and the budget, as our own planner sees them. Gaps stay within
            the step unless it is bounded otherwise: few of the published rules say what to do
            across the step boundary, and most plan forward and backward alone.
    """

    step: StepView
    problem: Problem

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps, in order of their first slot."""
        return self.problem.whole_gaps

    def bounded(self, boundary: Boundary) -> "Task":
        """Returns the same task with the gaps there are if swaps may wrap, or if they may not."""
        if boundary is self.problem.boundary:
            return self
        gaps = candidate_gaps(self.step.profile, self.problem.min_size_bytes, boundary)
        return replace(self, problem=replace(self.problem, whole_gaps=gaps, boundary=boundary))

    def with_budget(self, budget_bytes: int) -> "Task":
        """Returns the same task for another budget."""
        return replace(self, problem=replace(self.problem, budget_bytes=budget_bytes))

    def kind(self, i: int) -> StorageKind:
        """Returns the kind of a gap's storage."""
        return self.step.profile.storages[self.gaps[i].storage].kind

    def activations(self) -> tuple[int, ...]:
        """Returns the gaps in which an activation waits from forward to backward."""
        turn = self.step.turn_slot
        return tuple(
            i
            for i, gap in enumerate(self.gaps)
            if self.kind(i) is StorageKind.ACTIVATION
            and gap.first_slot <= turn <= gap.next_use_slot
        )

    def swap(
        self,
        i: int,
        release_slot: int,
        swap_in_slot: int,
        *,
        swap_out_slot: int | None = None,
        await_slot: int | None = None,
    ) -> TimedSwap:
        """Returns the swap of a gap, over all of it unless other anchors are named."""
        gap = self.gaps[i]
        return TimedSwap(
            gap=i,
            storage=gap.storage,
            swap_out_slot=gap.first_slot if swap_out_slot is None else swap_out_slot,
            release_slot=release_slot,
            swap_in_slot=swap_in_slot,
            await_slot=gap.next_use_slot if await_slot is None else await_slot,
        )

    def latest_start_slot(self, i: int, lead_us: float | None = None) -> int:
        """Returns the last slot after a gap's first in which its copy back may start.

        It is so long before the next use, without stalls; as long as the copy alone takes if None.
        The slot of the next use if there is no such slot.
        """
        gap, elapsed_us = self.gaps[i], self.problem.elapsed_us
        lead_us = self.problem.h2d_us[i] if lead_us is None else lead_us
        latest_us = elapsed_us[gap.next_use_slot] - lead_us
        slot = bisect_right(elapsed_us, latest_us) - 1
        return min(max(slot, gap.first_slot + 1), gap.next_use_slot)

    def largest_first(
        self, wanted: Iterable[int], key: Callable[[int], float] | None = None
    ) -> tuple[int, ...]:
        """Returns gaps by falling key, or size; equal ones stay in the order given."""
        return tuple(sorted(wanted, key=key or (lambda i: self.gaps[i].size_bytes), reverse=True))


def task_of(
    profile: Profile,
    budget_bytes: int,
    link: Link | None = None,
    min_size_bytes: int | None = None,
) -> Task:
    """Returns the task of planning a step (see `problem_of`), for the profile's link if None."""
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        # The rules know the copy engine alone.
        link=(link or profile.link).model_copy(update={"engines": ()}),
        min_size_bytes=min_size_bytes,
        boundary=Boundary.RESIDENT,
        every_gap=True,
    )
    return Task(StepView(profile), problem)
