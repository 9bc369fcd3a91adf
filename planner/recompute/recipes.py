"""Recipes: the ops that, run again, fill a storage whose bytes were given back.

A recipe is every write of a storage up to its last use before the gap in which it is dropped, in
program order, together with what writes the inputs that are gone by then (see [Note: recipes] in
`planner.plan.plan`). The ops of a recipe run on fresh memory: whatever one of them writes is made
anew from its allocation on, and all of them that read it read what was made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from profiles.schema.memory import ops_of_slots
from profiles.schema.profile import (
    NEVER_AGAIN,
    Access,
    LeftOut,
    OpTrait,
    Profile,
    Storage,
    StorageKind,
)

MADE_BY_THE_STEP = frozenset({StorageKind.ACTIVATION, StorageKind.TEMPORARY, StorageKind.GRADIENT})
"""Kinds of storage that an op may have made: running it again makes them again."""
NOT_ALONE = frozenset({LeftOut.NOT_RESIZABLE, LeftOut.EXCHANGED, LeftOut.RESIZED})
"""Storages that are left out for these reasons hold what no op can be seen to write."""


@dataclass(frozen=True)
class OpEffects:
    """What an op of a step does to storages.

    Attributes:
        reads: Ids of what it needs to find as the step left it: all it is handed, but for buffers
            of which it only keeps statistics, and what it allocates itself.
        writes: Ids of what it writes, those it allocates among them.
        runs_again: Whether it may be run a second time.
    """

    reads: frozenset[int]
    writes: frozenset[int]
    runs_again: bool


class StepEffects:
    """Who reads and writes what, in one step.

    Attributes:
        profile: The step.
        ops: What each op does.
        writers: The ops that write each storage, in order, by id; the first one makes it, if the
            step does.
        first_op: The first op of each slot, or where it would stand.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.first_op = tuple(ops.start for ops in ops_of_slots(profile))
        touched: list[dict[int, Access]] = [{} for _ in profile.ops]
        self.writers: dict[int, tuple[int, ...]] = {}
        for storage in profile.storages:
            for use in storage.uses:
                if touched[use.op].get(storage.id) is not Access.WRITE:
                    touched[use.op][storage.id] = use.access
            writers = dict.fromkeys(u.op for u in storage.uses if u.access is Access.WRITE)
            self.writers[storage.id] = tuple(writers)
        self.ops = tuple(self._effects(k, accesses) for k, accesses in enumerate(touched))

    def is_made_by_ops(self, storage: Storage) -> bool:
        """Whether all that a storage holds was written by ops of this step."""
        writers = self.writers[storage.id]
        return (
            storage.kind in MADE_BY_THE_STEP
            and storage.left_out not in NOT_ALONE
            and storage.allocated_op is not None
            and writers[:1] == (storage.allocated_op,)
            # What an anchor has found before was made by no op.
            and storage.allocated_slot > self.profile.ops[storage.allocated_op].slot
            and all(touch.access is Access.READ for touch in storage.touches)
        )

    def is_unchanged(self, storage: Storage, op: int, slot: int) -> bool:
        """Whether at a slot's anchor a storage is alive and holds what an earlier op found."""
        if storage.released_slot < slot or storage.left_out is LeftOut.EXCHANGED:
            # What workers exchange they may write where no op shows it.
            return False
        before = self.first_op[slot]
        written = any(op < writer < before for writer in self.writers[storage.id])
        since = self.profile.ops[op].slot
        return not written and not any(
            touch.access is Access.WRITE and since <= touch.slot <= slot
            for touch in storage.touches
        )

    def _effects(self, k: int, accesses: dict[int, Access]) -> OpEffects:
        op, storages = self.profile.ops[k], self.profile.storages
        traits = frozenset({OpTrait.UNKNOWN_EFFECTS} if op.traits is None else op.traits)
        writes = {s for s, access in accesses.items() if access is Access.WRITE}
        if OpTrait.KEEPS_STATISTICS in traits:
            # They get copies to write to, which nothing reads.
            writes = {s for s in writes if storages[s].kind is not StorageKind.BUFFER}
            accesses = {
                s: access for s, access in accesses.items() if s in writes or access is Access.READ
            }
        made = {s for s in writes if storages[s].allocated_op == k}
        return OpEffects(
            reads=frozenset(accesses.keys() - made),
            writes=frozenset(writes),
            runs_again=traits.isdisjoint(NEVER_AGAIN),
        )


@dataclass
class Recipe:
    """Ops to run at the anchor of a slot.

    Attributes:
        slot: The slot.
        ops: Ids of the ops.
        made: What they make anew: by storage, the op before which all of its writers are run.
        found: What they read in place, by storage: the ops that do.
    """

    slot: int
    ops: set[int] = field(default_factory=set)
    made: dict[int, int] = field(default_factory=dict)
    found: dict[int, set[int]] = field(default_factory=dict)


def recipe_for(
    effects: StepEffects,
    slot: int,
    wanted: Iterable[tuple[int, int]],
    absent: Mapping[int, int],
    max_ops: int,
) -> Recipe | None:
    """Returns what is to be run so that storages hold again what they held before a gap.

    Args:
        effects: The step.
        slot: At the anchor of this slot the ops are run.
        wanted: Storages, each with the op before which all of its writers are to be run.
        absent: Storages that are dropped there, likewise: one that is made on the way is kept, so
            it is made whole.
        max_ops: A longer recipe is none.

    Returns:
        The recipe; None if an op must not be run again, or there would be too many; and None at the
        last anchor, after which no op runs.
    """
    if slot >= len(effects.profile.slots) - 1:
        return None
    recipe = Recipe(slot)
    pending = list(wanted)
    while pending:
        storage, before = pending.pop()
        if before <= recipe.made.get(storage, -1):
            continue
        if not effects.is_made_by_ops(effects.profile.storages[storage]):
            return None
        readers = recipe.found.pop(storage, set())
        before = recipe.made[storage] = max(before, absent.get(storage, 0), *readers)
        new = [w for w in effects.writers[storage] if w < before and w not in recipe.ops]
        recipe.ops.update(new)
        if len(recipe.ops) > max_ops or not all(effects.ops[op].runs_again for op in new):
            return None
        for op in new:
            pending += _needs_of(effects, recipe, op, absent)
    return recipe


def _needs_of(
    effects: StepEffects, recipe: Recipe, op: int, absent: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Yields what an op of a recipe needs made; notes what it finds."""
    does, storages = effects.ops[op], effects.profile.storages
    for storage in does.writes:
        yield storage, op + 1
    for storage in does.reads - does.writes:
        in_place = storage not in recipe.made and storage not in absent
        if in_place and effects.is_unchanged(storages[storage], op, recipe.slot):
            recipe.found.setdefault(storage, set()).add(op)
        else:
            yield storage, op
