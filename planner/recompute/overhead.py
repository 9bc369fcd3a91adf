"""What slots need beyond storages when ops run again in them.

A slot's own overhead was recorded where it needs the most, with what the op there takes meanwhile.
The ops of a recipe run at the slot's anchor, which may find more storages to round up, and may
themselves take more meanwhile; what they make is rounded up as well.
"""

from collections.abc import Iterable

from planner.recompute.recipes import Recipe
from profiles.schema.memory import GRANULE_BYTES, Moment, bytes_at, neediest_moments, with_sizes
from profiles.schema.profile import CPU, Profile


class Overhead:
    """The overhead of each slot of a step, with some recipes run in it.

    Where no workspace was recorded, as in estimates and on the emulated device, the overhead of the
    slot in which an op ran stands for what the op takes.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._excess_bytes = tuple(
            0 if profile.device.kind == CPU else -storage.size_bytes % GRANULE_BYTES
            for storage in profile.storages
        )
        self._beyond_bytes = self._beyond_neediest()

    def with_recipes(self, recipes: Iterable[Recipe]) -> list[int]:
        """Returns the overhead of each slot."""
        recipes = tuple(recipes)
        by_slot_bytes = [slot.overhead_bytes for slot in self._profile.slots]
        for recipe in recipes:
            t = recipe.slot
            by_slot_bytes[t] = max(by_slot_bytes[t], self._needed_by_ops_of(recipe))
        for recipe in recipes:
            by_slot_bytes[recipe.slot] += sum(self._excess_bytes[s] for s in recipe.made)
        return by_slot_bytes

    def _needed_by_ops_of(self, recipe: Recipe) -> int:
        """Returns what is needed while a recipe's ops run, but for what they make."""
        slots, ops = self._profile.slots, self._profile.ops
        if self._beyond_bytes is None:
            return max(slots[ops[op].slot].overhead_bytes for op in recipe.ops)
        most_bytes = max(map(self._workspace_bytes, recipe.ops))
        return slots[recipe.slot].overhead_bytes + most_bytes + self._beyond_bytes[recipe.slot]

    def _beyond_neediest(self) -> tuple[int, ...] | None:
        """Returns by how much each slot's anchor needs more than where the slot's overhead is from.

        That is what is rounded up of the storages it finds, less that and the workspace there: a
        recorded overhead is at least what both and libraries take where a slot needs the most.
        None if no workspace is known.
        """
        profile = self._profile
        if any(op.workspace_bytes is None for op in profile.ops):
            return None
        excess = with_sizes(profile, self._excess_bytes)
        neediest = neediest_moments(profile)
        workspaces = (0 if op is None else self._workspace_bytes(op) for _, op in neediest)
        anchors = [Moment(t, None) for t in range(len(profile.slots))]
        rows = zip(bytes_at(excess, anchors), bytes_at(excess, neediest), workspaces, strict=True)
        return tuple(at_anchor - there - taken for at_anchor, there, taken in rows)

    def _workspace_bytes(self, op: int) -> int:
        return self._profile.ops[op].workspace_bytes or 0
