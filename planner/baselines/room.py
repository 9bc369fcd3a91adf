"""Bytes free in each slot while absences are being decided."""

from collections.abc import Iterable

import numpy as np

from planner.gaps import Gap
from planner.problem import Problem


class Room:
    """What is left of a budget, slot by slot.

    Slots count on past the end of the step, as those of gaps do: of T slots, T + 3 is slot 3.

    Args:
        problem: The step.
        budget_bytes: The budget; the problem's if None.
    """

    def __init__(self, problem: Problem, budget_bytes: int | None = None) -> None:
        budget = problem.budget_bytes if budget_bytes is None else budget_bytes
        self.free_bytes = budget - np.array(problem.resident_bytes)

    def give(self, size_bytes: int, first_slot: int, end_slot: int) -> None:
        """Something is away from one slot until another, less than a step later."""
        count = len(self.free_bytes)
        if first_slot < count:
            self.free_bytes[first_slot : min(end_slot, count)] += size_bytes
        if end_slot > count:
            self.free_bytes[max(0, first_slot - count) : end_slot - count] += size_bytes

    def take(self, size_bytes: int, first_slot: int, end_slot: int) -> None:
        """Something comes back from one slot until another."""
        self.give(-size_bytes, first_slot, end_slot)

    def has_room(self, slot: int, size_bytes: int) -> bool:
        """Whether a slot holds so many bytes more."""
        return bool(self.free_bytes[slot % len(self.free_bytes)] >= size_bytes)

    def first_with_room(self, gap: Gap, earliest_slot: int) -> int:
        """Returns the first slot from which a storage that is away fits until its next use.

        Args:
            gap: Where it is away; its next use is the answer if nothing earlier will do.
            earliest_slot: No slot before this one.
        """
        slot = gap.next_use_slot
        while slot > earliest_slot and self.has_room(slot - 1, gap.size_bytes):
            slot -= 1
        return slot

    def all_fit(self) -> bool:
        """Whether every slot is within the budget."""
        return bool(self.free_bytes.min() >= 0)


def room_without(problem: Problem, chosen: Iterable[int]) -> Room:
    """Returns the room there is with chosen gaps away from end to end."""
    room = Room(problem)
    for i in chosen:
        gap = problem.gaps[i]
        room.give(gap.size_bytes, gap.first_slot, gap.next_use_slot)
    return room
