"""The profile of the step in which some storages are dropped and rebuilt.

What is dropped ends at the anchor after its last use before the gap, and another storage begins
where the recipe makes it again. The ops of the recipes stand first in the slots at whose anchors
they are run, and their time is added to those slots. So gaps, memory, host needs, lanes,
simulation and verification need nothing new, and what was rebuilt may itself be swapped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from planner.plan.plan import Drop, Rebuild, RecipeOp
from planner.problem.gaps import Gap
from planner.recompute.overhead import Overhead
from planner.recompute.recipes import Recipe, StepEffects, recipe_for
from profiles.schema.profile import (
    Access,
    LeftOut,
    Op,
    Profile,
    Slot,
    Storage,
    StorageKind,
    Touch,
    Use,
)

Dropped = frozenset[Gap]
"""Gaps in which storages are dropped."""

MAX_RECIPE_OPS = 256
"""A longer recipe is not offered: what it makes on the way would need memory of its own."""


@dataclass(frozen=True)
class Rebuilding:
    """A recipe, and what it fills.

    Attributes:
        recipe: What is run.
        gaps: The gaps it ends.
    """

    recipe: Recipe
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class RecomputedStep:
    """A step in which storages are dropped and rebuilt.

    Attributes:
        profile: It, as if it had been recorded.
        rebuilds: What is run again, as a plan has it.
        recompute_us: Time of that, by slot.
        origins: By id of its profile, the id that the storage has in the profile it was made from.
    """

    profile: Profile
    rebuilds: tuple[Rebuild, ...]
    recompute_us: tuple[float, ...]
    origins: tuple[int, ...]


def rebuildings(
    effects: StepEffects, dropped: Iterable[Gap], max_ops: int = MAX_RECIPE_OPS
) -> tuple[Rebuilding, ...] | None:
    """Returns the recipes that rebuild what is dropped, in the order in which they are run.

    A storage is rebuilt at the end of its gap, or before, if another recipe makes it there. What a
    recipe reads where its gap begins is dropped one anchor later, or not at all if the gap ends
    there.

    Args:
        effects: The step.
        dropped: The gaps in which storages are dropped.
        max_ops: The most ops of a recipe.

    Returns:
        The recipes; None if a storage cannot be rebuilt.
    """
    pending = sorted(dropped, key=lambda gap: (gap.next_use_slot, gap.first_slot, gap.name))
    found: list[Rebuilding] = []
    while pending:
        gap = pending[0]
        slot = gap.next_use_slot
        away = [g for g in pending if g.first_slot < slot]
        recipe = recipe_for(
            effects,
            slot,
            [(gap.storage, effects.first_op[gap.first_slot])],
            absent={g.storage: effects.first_op[g.first_slot] for g in away},
            max_ops=max_ops,
        )
        if recipe is None:
            return None
        filled = tuple(g for g in away if g.storage in recipe.made)
        found.append(Rebuilding(recipe, filled))
        pending = list(_dropped_after(recipe, (g for g in pending if g not in filled)))
    return tuple(found)


def _dropped_after(recipe: Recipe, gaps: Iterable[Gap]) -> Iterator[Gap]:
    """What a recipe reads at the anchor where it was to be dropped is dropped at the next one."""
    for gap in gaps:
        if gap.first_slot == recipe.slot and gap.storage in recipe.found:
            gap = replace(gap, first_slot=gap.first_slot + 1)
        if gap.first_slot < gap.next_use_slot:
            yield gap


def recompute_us(profile: Profile, found: Iterable[Rebuilding]) -> list[float]:
    """Returns the time of what some recipes run again, by slot."""
    by_slot_us = [0.0] * len(profile.slots)
    for rebuilding in found:
        for op in rebuilding.recipe.ops:
            by_slot_us[rebuilding.recipe.slot] += profile.ops[op].duration_us
    return by_slot_us


def recomputed(effects: StepEffects, found: tuple[Rebuilding, ...]) -> RecomputedStep:
    """Returns the step in which some recipes are run."""
    return _Rewriting(effects, found).step()


@dataclass(frozen=True)
class _Stretch:
    """What a storage does from where it begins to where it ends."""

    released_op: int | None
    released_slot: int
    uses: tuple[Use, ...]
    touches: tuple[Touch, ...]

    def fields(self) -> dict[str, object]:
        """Returns them by name, as a storage has them."""
        return dict(vars(self))


class _Rewriting:
    """One rewriting of a profile; ops of the step it makes are called new."""

    def __init__(self, effects: StepEffects, found: tuple[Rebuilding, ...]) -> None:
        self._effects = effects
        self._old = effects.profile
        self._found = found
        added = [0] * len(self._old.slots)
        for rebuilding in found:
            added[rebuilding.recipe.slot] += len(rebuilding.recipe.ops)
        # What is run again stands before the ops of its slot.
        self._added_until = tuple(accumulate(added))
        self._added = added
        last = (
            first + until - 1 if more else -1
            for first, until, more in zip(effects.first_op, self._added_until, added, strict=True)
        )
        # By slot: the last new op that is run again in it or before.
        self._last_again = tuple(accumulate(last, max))

    def step(self) -> RecomputedStep:
        """Returns the step."""
        old = self._old
        runs, rebuilds = self._runs(), self._rebuilds()
        again_us = recompute_us(old, self._found)
        lives = [*self._first_lives(runs), *self._later_lives(runs), *self._temporaries(runs)]
        storages = tuple(
            storage.model_copy(update={"id": n}) for n, (_, storage) in enumerate(lives)
        )
        profile = old.model_copy(
            update={
                "ops": self._ops(),
                "slots": self._slots(again_us),
                "storages": storages,
            }
        )
        # What pydantic has kept of the old one.
        profile.__dict__.pop("peak_bytes", None)
        origins = tuple(origin for origin, _ in lives)
        return RecomputedStep(profile, rebuilds, tuple(again_us), origins)

    def _new_op(self, op: int) -> int:
        return op + self._added_until[self._old.ops[op].slot]

    def _first_in(self, slot: int) -> int:
        """The first new op of a slot, or where it would stand; past the last slot, past all ops."""
        if slot >= len(self._old.slots):
            return len(self._old.ops) + self._added_until[-1]
        return self._effects.first_op[slot] + self._added_until[slot] - self._added[slot]

    def _runs(self) -> tuple[dict[int, int], ...]:
        """For each recipe, where each of its ops stands in the new step."""
        taken: dict[int, int] = {}
        runs = []
        for rebuilding in self._found:
            slot, ops = rebuilding.recipe.slot, sorted(rebuilding.recipe.ops)
            first = self._first_in(slot) + taken.get(slot, 0)
            taken[slot] = taken.get(slot, 0) + len(ops)
            runs.append({op: first + n for n, op in enumerate(ops)})
        return tuple(runs)

    def _rebuilds(self) -> tuple[Rebuild, ...]:
        ops, first_op = self._old.ops, self._effects.first_op
        return tuple(
            Rebuild(
                slot=rebuilding.recipe.slot,
                ops=tuple(
                    RecipeOp(
                        op=k, name=ops[k].name, slot=ops[k].slot, position=k - first_op[ops[k].slot]
                    )
                    for k in sorted(rebuilding.recipe.ops)
                ),
                drops=tuple(Drop(storage=g.storage, slot=g.first_slot) for g in rebuilding.gaps),
                recompute_us=sum(ops[k].duration_us for k in sorted(rebuilding.recipe.ops)),
            )
            for rebuilding in self._found
        )

    def _ops(self) -> tuple[Op, ...]:
        again: list[list[Op]] = [[] for _ in self._old.slots]
        for rebuilding in self._found:
            slot = rebuilding.recipe.slot
            again[slot] += [
                self._old.ops[op].model_copy(update={"slot": slot})
                for op in sorted(rebuilding.recipe.ops)
            ]
        first_op = (*self._effects.first_op, len(self._old.ops))
        return tuple(
            op
            for slot, ops in enumerate(again)
            for op in (*ops, *self._old.ops[first_op[slot] : first_op[slot + 1]])
        )

    def _slots(self, again_us: list[float]) -> tuple[Slot, ...]:
        """The slots, longer by what is run again, and with room for what that takes besides."""
        needs_bytes = Overhead(self._old).with_recipes(found.recipe for found in self._found)
        return tuple(
            slot.model_copy(
                update={"duration_us": slot.duration_us + us, "overhead_bytes": size_bytes}
            )
            for slot, us, size_bytes in zip(self._old.slots, again_us, needs_bytes, strict=True)
        )

    def _first_lives(self, runs: tuple[dict[int, int], ...]) -> Iterator[tuple[int, Storage]]:
        """Every storage of the old step, up to where it is dropped first."""
        drops = self._drops()
        reads = self._reads(runs)
        for storage in self._old.storages:
            uses = self._uses(storage, reads.get(storage.id, []))
            begun = self._begin(storage)
            ends = (
                self._dropped(storage, uses, drops[storage.id][0][0])
                if storage.id in drops
                else self._end(storage, uses)
            )
            yield storage.id, storage.model_copy(update=begun | ends.fields())

    def _later_lives(self, runs: tuple[dict[int, int], ...]) -> Iterator[tuple[int, Storage]]:
        """What the recipes fill, from there to its end or to where it is dropped again."""
        drops = self._drops()
        reads = self._reads(runs)
        for storage_id, gaps in sorted(drops.items()):
            storage = self._old.storages[storage_id]
            uses = self._uses(storage, reads.get(storage_id, []))
            for n, (_, back_slot, run) in enumerate(gaps):
                made = self._made_by(storage_id, runs[run])
                since = made + [use for use in uses if use.op > made[-1].op]
                ends = (
                    self._dropped(storage, since, gaps[n + 1][0])
                    if n + 1 < len(gaps)
                    else self._end(storage, since)
                )
                begun = {
                    "name": f"{storage.name}@rebuilt{n}",
                    "allocated_op": made[0].op,
                    "allocated_slot": back_slot + 1,
                    "touches": tuple(t for t in ends.touches if t.slot >= back_slot),
                    # It is the storage that the runtime has known since it was made.
                    "shown_at": 0,
                }
                yield storage_id, storage.model_copy(update=ends.fields() | begun)

    def _temporaries(self, runs: tuple[dict[int, int], ...]) -> Iterator[tuple[int, Storage]]:
        """What the recipes make besides, each until the last op of its recipe that uses it."""
        for n, (rebuilding, run) in enumerate(zip(self._found, runs, strict=True)):
            filled = {gap.storage for gap in rebuilding.gaps}
            slot = rebuilding.recipe.slot
            for storage_id in sorted(rebuilding.recipe.made.keys() - filled):
                uses = self._made_by(storage_id, run)
                storage = self._old.storages[storage_id]
                yield (
                    storage_id,
                    storage.model_copy(
                        update={
                            "name": f"temporary{n}:{storage.name}",
                            "kind": StorageKind.TEMPORARY,
                            "allocated_op": uses[0].op,
                            "released_op": uses[-1].op,
                            "allocated_slot": slot + 1,
                            "released_slot": slot,
                            "shown_at": None,
                            "left_out": LeftOut.NEVER_SHOWN,
                            "uses": tuple(uses),
                            "touches": (),
                        }
                    ),
                )

    def _drops(self) -> dict[int, list[tuple[int, int, int]]]:
        """For each dropped storage: the slot of each drop, of its rebuild, and which recipe."""
        drops: dict[int, list[tuple[int, int, int]]] = {}
        for run, rebuilding in enumerate(self._found):
            for gap in rebuilding.gaps:
                place = (gap.first_slot, rebuilding.recipe.slot, run)
                drops.setdefault(gap.storage, []).append(place)
        return {storage: sorted(places) for storage, places in drops.items()}

    def _reads(self, runs: tuple[dict[int, int], ...]) -> dict[int, list[int]]:
        """The new ops of recipes that read each storage in place."""
        reads: dict[int, list[int]] = {}
        for rebuilding, run in zip(self._found, runs, strict=True):
            for storage_id, ops in rebuilding.recipe.found.items():
                reads.setdefault(storage_id, []).extend(run[op] for op in ops)
        return reads

    def _made_by(self, storage_id: int, run: dict[int, int]) -> list[Use]:
        """The uses of a storage among the ops of a recipe that makes it."""
        does = self._effects.ops
        uses = []
        for op, new in run.items():
            if storage_id in does[op].writes:
                uses.append(Use(op=new, access=Access.WRITE))
            elif storage_id in does[op].reads:
                uses.append(Use(op=new, access=Access.READ))
        return uses

    def _uses(self, storage: Storage, reads: list[int]) -> list[Use]:
        """The uses that the old step has and those that recipes have in place, in order."""
        old = [Use(op=self._new_op(use.op), access=use.access) for use in storage.uses]
        new = [Use(op=op, access=Access.READ) for op in reads]
        return sorted([*old, *new], key=lambda use: use.op)

    def _begin(self, storage: Storage) -> dict[str, object]:
        """Where a storage begins: what its anchor finds, what is run again there finds as well."""
        op = storage.allocated_op
        if op is None:
            return {}
        past = op >= len(self._old.ops)
        slot = len(self._old.slots) if past else self._old.ops[op].slot
        found_by_anchor = storage.allocated_slot <= slot
        first = self._first_in(storage.allocated_slot) if found_by_anchor else self._new_op(op)
        return {"allocated_op": first}

    def _end(self, storage: Storage, uses: list[Use]) -> _Stretch:
        """Where a storage ends that is not dropped: after all that is run while it is there."""
        released, slot = storage.released_op, storage.released_slot
        if released is not None:
            # What its last anchor finds, what is run again there finds as well.
            last_again = self._last_again[slot] if slot >= 0 else -1
            released = max(-1 if released < 0 else self._new_op(released), last_again)
        return _Stretch(released, slot, tuple(uses), storage.touches)

    def _dropped(self, storage: Storage, uses: list[Use], slot: int) -> _Stretch:
        """Where a storage ends that is dropped at the anchor of a slot."""
        last = self._first_in(slot) - 1
        return _Stretch(
            last,
            slot - 1,
            tuple(use for use in uses if use.op <= last),
            tuple(touch for touch in storage.touches if touch.slot < slot),
        )
