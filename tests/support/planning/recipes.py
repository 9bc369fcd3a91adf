"""Plans that drop and rebuild, derived from a profile by the plain rules of [Note: recipes] in
`planner.plan.plan`, with no judgement of what is worth it: whatever can be rebuilt may be."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from planner.plan.plan import Drop, Plan, PlannedSlot, Rebuild, RecipeOp, Swap, Without
from profiles.schema.memory import Moment, bytes_at, ops_of_slots
from profiles.schema.profile import Access, OpTrait, Profile, Storage, StorageKind
from tests.support.planning.hardest_plans import certified, everything_away, with_swaps

NEVER = {OpTrait.COLLECTIVE, OpTrait.WAITS, OpTrait.SHAPED_BY_DATA, OpTrait.UNKNOWN_EFFECTS}
LONGEST = 40
"""Ops of a recipe at most."""


@dataclass(frozen=True)
class Idle:
    """A stretch of a storage's life in which it may be dropped.

    Attributes:
        storage: Its id.
        last_op: The last op before that uses it.
        drop_slot: Where it is dropped.
        rebuild_slot: Where it is used again.
    """

    storage: int
    last_op: int
    drop_slot: int
    rebuild_slot: int

    def covers(self, slot: int) -> bool:
        """Whether its storage is gone when a slot's recipes run, all other things equal."""
        return self.drop_slot <= slot < self.rebuild_slot


class Step:
    """What recipes have to know of a recorded step."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.storages = {storage.id: storage for storage in profile.storages}

    @cached_property
    def touched(self) -> dict[int, dict[int, Access]]:
        """The storages each op touches, as far as it matters when it is run again."""
        found: dict[int, dict[int, Access]] = {op: {} for op in range(len(self.profile.ops))}
        for storage in self.profile.storages:
            for use in storage.uses:
                if not self._is_statistic(storage, use.op):
                    found[use.op][storage.id] = use.access
        return found

    @cached_property
    def idle(self) -> tuple[Idle, ...]:
        """Every stretch in which a storage might be dropped, were there a recipe."""
        activations = (s for s in self.profile.storages if _may_be_dropped(s))
        return tuple(idle for storage in activations for idle in self._idle(storage))

    def writers(self, storage: int, before: int) -> tuple[int, ...]:
        """The ops that wrote a storage before another op ran."""
        uses = self.storages[storage].uses
        return tuple(u.op for u in uses if u.op < before and u.access is Access.WRITE)

    def is_made_here(self, storage: int) -> bool:
        """Whether an op of the step made a storage."""
        made = self.storages[storage]
        first = made.uses[0] if made.uses else None
        is_made = first is not None and first.access is Access.WRITE
        return is_made and first is not None and made.allocated_op == first.op

    def stays(self, storage: int, op: int, slot: int) -> bool:
        """Whether a storage is at a slot's anchor what an op found."""
        found = self.storages[storage]
        end = self.first_op_at(slot)
        is_alive = found.released_slot >= slot
        written = any(op < use.op < end and use.access is Access.WRITE for use in found.uses)
        handed_out = any(
            touch.access is Access.WRITE and self.profile.ops[op].slot <= touch.slot <= slot
            for touch in found.touches
        )
        return is_alive and not written and not handed_out

    def first_op_at(self, slot: int) -> int:
        """The first op that runs after a slot's anchor."""
        return self._ops[slot].start

    def recipe_op(self, op: int) -> RecipeOp:
        """An op as a plan speaks of it."""
        found = self.profile.ops[op]
        position = op - self._ops[found.slot].start
        return RecipeOp(op=op, name=found.name, slot=found.slot, position=position)

    @cached_property
    def _ops(self) -> tuple[range, ...]:
        return ops_of_slots(self.profile)

    def _is_statistic(self, storage: Storage, op: int) -> bool:
        traits = self.profile.ops[op].traits or ()
        is_written = any(u.op == op and u.access is Access.WRITE for u in storage.uses)
        return (
            OpTrait.KEEPS_STATISTICS in traits
            and is_written
            and storage.allocated_op != op
            and storage.kind is StorageKind.BUFFER
        )

    def _idle(self, storage: Storage) -> Iterator[Idle]:
        needed = {self.profile.ops[use.op].slot for use in storage.uses}
        needed |= {touch.slot for touch in storage.touches}
        shown = storage.shown_at or 0
        slots = sorted(needed)
        for before, after in pairwise(slots):
            ops = [use.op for use in storage.uses if self.profile.ops[use.op].slot <= before]
            drop_slot = max(before + 1, shown)
            if ops and drop_slot < after:
                yield Idle(storage.id, ops[-1], drop_slot, after)


def _may_be_dropped(storage: Storage) -> bool:
    is_shown = storage.name.startswith("pack:") and storage.left_out is None
    return is_shown and storage.kind is StorageKind.ACTIVATION and storage.size_bytes > 0


def recipe(
    step: Step, targets: Collection[Idle], gone: Collection[int], longest: int = LONGEST
) -> tuple[int, ...] | None:
    """The ops that fill some storages again; None if nothing can.

    Args:
        step: The step.
        targets: What is to be filled, all at one slot.
        gone: Storages that are not there then.
        longest: More ops than that are none.
    """
    (slot,) = {target.rebuild_slot for target in targets}
    made = {target.storage for target in targets}
    ops: set[int] = set()
    wanted = {op for t in targets for op in step.writers(t.storage, t.last_op + 1)}
    while wanted - ops:
        op = min(wanted - ops)
        ops.add(op)
        traits = step.profile.ops[op].traits
        if len(ops) > longest or traits is None or NEVER & set(traits):
            return None
        for storage, access in step.touched[op].items():
            is_there = storage not in gone and step.stays(storage, op, slot)
            if access is Access.WRITE or not is_there:
                made.add(storage)
        # What is made for one op is what all others find, too.
        for storage in made:
            touching = [op for op in ops if storage in step.touched[op]]
            for op in touching:
                wanted |= set(step.writers(storage, op + 1 if op in ops else op))
    is_makeable = all(step.is_made_here(s) for s in made if any(s in step.touched[o] for o in ops))
    makes_all = all(step.writers(t.storage, t.last_op + 1) for t in targets)
    return tuple(sorted(ops)) if is_makeable and makes_all else None


def choose(
    step: Step, idle: Iterable[Idle], *, together: bool = True, longest: int = LONGEST
) -> tuple[tuple[tuple[Idle, ...], tuple[int, ...]], ...]:
    """What of some stretches can be dropped all at once, and by which ops it comes back.

    Args:
        step: The step.
        idle: The stretches, no two of one storage at a time.
        together: Whether what comes back at one slot has one recipe.
        longest: Ops of a recipe at most.
    """
    chosen = list(idle)
    while True:
        groups = _groups(chosen, together=together)
        found = []
        failed: list[Idle] = []
        for number, group in enumerate(groups):
            slot = group[0].rebuild_slot
            later = {i.storage for g in groups[number + 1 :] for i in g if i.rebuild_slot == slot}
            gone = {i.storage for i in chosen if i.covers(slot)} | later
            ops = recipe(step, group, gone - {i.storage for i in group}, longest)
            if ops is None:
                failed += group
            else:
                found.append((group, ops))
        if not failed:
            return tuple(found)
        # Alone they may do, and what stays may serve others.
        chosen = [i for i in chosen if i not in failed[-1:]]


def _groups(chosen: Iterable[Idle], *, together: bool) -> list[tuple[Idle, ...]]:
    in_order = sorted(chosen, key=lambda idle: (idle.rebuild_slot, idle.last_op, idle.storage))
    if not together:
        return [(idle,) for idle in in_order]
    groups: dict[int, list[Idle]] = {}
    for idle in in_order:
        groups.setdefault(idle.rebuild_slot, []).append(idle)
    return [tuple(group) for group in groups.values()]


def with_rebuilds(
    profile: Profile,
    idle: Iterable[Idle] | None = None,
    *,
    swapping: bool = False,
    together: bool = True,
    longest: int = LONGEST,
) -> Plan:
    """A plan that drops and rebuilds what it can.

    Args:
        profile: The step.
        idle: The stretches to drop, as far as there are recipes; the longest of each storage if
            None.
        swapping: Whether everything else is swapped, wherever a recipe does not read it.
        together: Whether what comes back at one slot has one recipe.
        longest: Ops of a recipe at most.
    """
    step = Step(profile)
    chosen = choose(
        step, longest_idle(step) if idle is None else idle, together=together, longest=longest
    )
    rebuilds = tuple(
        Rebuild(
            slot=group[0].rebuild_slot,
            ops=tuple(map(step.recipe_op, ops)),
            drops=tuple(Drop(storage=i.storage, slot=i.drop_slot) for i in group),
            recompute_us=sum(profile.ops[op].duration_us for op in ops),
        )
        for group, ops in chosen
    )
    base = everything_away(profile)
    slots = _slots(step, base.slots, chosen)
    changes = {"rebuilds": rebuilds, "slots": slots, "swaps": (), "without": Without.NOTHING}
    plan = base.model_copy(update=changes)
    swaps = [s for s in base.swaps if _is_free(step, s, chosen)] if swapping else []
    return with_swaps(certified(plan), swaps)


def longest_idle(step: Step) -> tuple[Idle, ...]:
    """The longest stretch of each storage."""
    found: dict[int, Idle] = {}
    for idle in step.idle:
        other = found.get(idle.storage)
        length = idle.rebuild_slot - idle.drop_slot
        if other is None or length > other.rebuild_slot - other.drop_slot:
            found[idle.storage] = idle
    return tuple(found.values())


Chosen = tuple[tuple[tuple[Idle, ...], tuple[int, ...]], ...]


def _is_free(step: Step, swap: Swap, chosen: Chosen) -> bool:
    """Whether a swap meets neither a drop of its storage nor a recipe that reads it."""
    for group, ops in chosen:
        slot = group[0].rebuild_slot
        reads = any(swap.storage in step.touched[op] for op in ops)
        if reads and swap.swap_out_slot <= slot < swap.await_slot:
            return False
        for idle in group:
            apart = swap.await_slot < idle.drop_slot or idle.rebuild_slot < swap.swap_out_slot
            if idle.storage == swap.storage and not apart:
                return False
    return True


def _slots(step: Step, slots: tuple[PlannedSlot, ...], chosen: Chosen) -> tuple[PlannedSlot, ...]:
    """The slots with the memory and the time that dropping and rebuilding make of them."""
    profile = step.profile
    idle = [i for group, _ in chosen for i in group]
    size = {storage.id: storage.size_bytes for storage in profile.storages}
    found = []
    for t, slot in enumerate(slots):
        ops = ops_of_slots(profile)[t]
        gone = sum(size[i.storage] for i in idle if i.covers(t))
        at_anchor = bytes_at(profile, [Moment(t, None)])[0] - gone
        back = [i for i in idle if i.rebuild_slot == t]
        at_anchor -= sum(size[i.storage] for i in back)
        again = [(group, ops) for group, ops in chosen if group[0].rebuild_slot == t]
        needs = [at_anchor, *_needs_again(step, at_anchor, again)]
        needs += [need - gone for need in bytes_at(profile, [Moment(t, op) for op in ops])]
        recompute_us = sum(profile.ops[op].duration_us for _, ops in again for op in ops)
        resident_bytes = max(needs) + profile.slots[t].overhead_bytes
        found.append(
            slot.model_copy(
                update={
                    "resident_bytes": resident_bytes,
                    "duration_us": slot.duration_us + recompute_us,
                    "recompute_us": recompute_us,
                    "without_bytes": slot.resident_bytes,
                }
            )
        )
    return tuple(found)


def _needs_again(
    step: Step, before_bytes: int, again: Iterable[tuple[Iterable[Idle], tuple[int, ...]]]
) -> Iterator[int]:
    """The bytes at each op that is run again at one slot."""
    for group, ops in again:
        targets = {idle.storage for idle in group}
        last = {storage: op for op in ops for storage in step.touched[op]}
        alive: dict[int, int] = {}
        for op in ops:
            for storage in step.touched[op]:
                if step.storages[storage].allocated_op == op:
                    alive[storage] = step.storages[storage].size_bytes
            yield before_bytes + sum(alive.values())
            alive = {s: size for s, size in alive.items() if last[s] != op or s in targets}
        before_bytes += sum(alive.values())
