"""Recipes for groups of storages, and storages that stay for them longer than the step has them."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from planner.problem.gaps import Gap
from planner.recompute.recipes import StepEffects, recipe_for
from planner.recompute.rewriting import Rebuilding
from profiles.schema.memory import ops_of_slots
from profiles.schema.profile import LeftOut, Profile, Slot, Storage, StorageKind


def rebuilt_together(
    effects: StepEffects, groups: Iterable[Collection[Gap]], *, keeps_what_it_makes: bool = True
) -> tuple[Rebuilding, ...] | None:
    """Returns the recipes that rebuild groups of gaps, each at the first use of any of its gaps.

    Args:
        effects: The step.
        groups: Gaps in which storages are dropped.
        keeps_what_it_makes: Whether a storage of another group that a recipe makes on the way is
            kept; if not, it is made again for its own group.

    Returns:
        The recipes, in the order in which they are run; None if a storage cannot be rebuilt.
    """
    members = [tuple(group) for group in groups]
    left = {gap: n for n, group in enumerate(members) for gap in group}
    found: list[Rebuilding] = []
    while left:
        first = min(left, key=_place)
        group = [gap for gap in members[left[first]] if gap in left]
        slot = first.next_use_slot
        away = [gap for gap in left if gap.first_slot <= slot]
        recipe = recipe_for(
            effects,
            slot,
            [(gap.storage, effects.first_op[gap.first_slot]) for gap in group],
            absent={g.storage: effects.first_op[g.first_slot] for g in away},
            max_ops=len(effects.ops),
        )
        if recipe is None:
            return None
        candidates = away if keeps_what_it_makes else group
        filled = tuple(g for g in candidates if g.storage in recipe.made)
        found.append(Rebuilding(recipe, filled))
        for gap in filled:
            del left[gap]
    return tuple(found)


def _place(gap: Gap) -> tuple[int, int, str]:
    return gap.next_use_slot, gap.first_slot, gap.name


def keeping(profile: Profile, until: Mapping[int, int]) -> Profile:
    """Returns the profile of the step in which somebody holds on to some storages.

    What a checkpointed block reads is such a storage: the step itself may have no use for it after
    forward, but running the block again has.

    Args:
        profile: The step.
        until: By id of a storage: the last slot whose anchor is to find it.
    """
    first_op = [ops.start for ops in ops_of_slots(profile)]
    storages, slots = list(profile.storages), list(profile.slots)
    for storage in profile.storages:
        slot = until.get(storage.id, -1)
        if storage.released_slot < slot:
            kept = _kept(storage, slot, first_op[slot] - 1)
            shown_at = _free_anchor(profile, slots, storage, slot)
            if shown_at is not None:
                # Whoever holds on to it may move it.
                slots[shown_at] = slots[shown_at].model_copy(update={"shows": storage.id})
                movable = {"kind": StorageKind.ACTIVATION, "left_out": None, "shown_at": shown_at}
                kept = kept.model_copy(update=movable)
            storages[storage.id] = kept
    update = {"storages": tuple(storages), "slots": tuple(slots)}
    longer = profile.model_copy(update=update)
    longer.__dict__.pop("peak_bytes", None)
    return longer


def _kept(storage: Storage, slot: int, op: int) -> Storage:
    released_op = op if storage.released_op is None else max(op, storage.released_op)
    return storage.model_copy(update={"released_slot": slot, "released_op": released_op})


def _free_anchor(
    profile: Profile, slots: Sequence[Slot], storage: Storage, last_slot: int
) -> int | None:
    """The first anchor that can show a storage that no anchor has shown so far."""
    if storage.left_out is not LeftOut.NEVER_SHOWN or storage.allocated_op is None:
        return None
    made_slot = profile.ops[storage.allocated_op].slot
    return next((t for t in range(made_slot + 1, last_slot) if slots[t].shows is None), None)
