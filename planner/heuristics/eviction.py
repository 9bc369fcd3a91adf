"""Bytes free in each slot, and eviction on demand: nothing leaves until something does not fit."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from planner.heuristics.task import Case
from planner.problem.gaps import Gap
from planner.problem.problem import Problem

ChooseVictim = Callable[[int, Sequence[int]], int]
"""From the bytes missing and the gaps whose storages are resident and idle, the one to evict."""

MAX_STEPS = 8
"""Steps that evict otherwise than the one before; the last one stands for them."""


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


def evictions(case: Case, movable: Sequence[int], choose: ChooseVictim) -> dict[int, int]:
    """Scans the step as an allocator sees it, over and over until two steps evict alike.

    A storage that was evicted is back at its next use. Where no victim is left the slot stays over
    the budget, and the scan goes on.

    Args:
        case: The task.
        movable: The gaps whose storages may be evicted.
        choose: The rule.

    Returns:
        The slot at which each evicted gap's storage leaves, counted as the gap's slots are, in
        order of eviction.
    """
    scan = _Scan(case, movable, choose)
    evicted = scan.step()
    for _ in range(MAX_STEPS):
        before, evicted = evicted, scan.step()
        if evicted == before:
            break
    return evicted


class _Scan:
    """An allocator's memory from step to step."""

    def __init__(self, case: Case, movable: Sequence[int], choose: ChooseVictim) -> None:
        self.case, self.choose = case, choose
        self.begins: list[list[int]] = [[] for _ in range(case.step.slot_count)]
        self.ends: list[list[int]] = [[] for _ in range(case.step.slot_count)]
        for i in movable:
            self.begins[case.gaps[i].first_slot].append(i)
            self.ends[case.gaps[i].next_use_slot % case.step.slot_count].append(i)
        self.idle: list[int] = []
        self.away: set[int] = set()
        self.away_bytes = 0
        self.begun_before: set[int] = set()

    def step(self) -> dict[int, int]:
        """Scans one step and returns what it evicts."""
        problem = self.case.problem
        evicted: dict[int, int] = {}
        self.begun_before = set(self.idle)
        for t, held_bytes in enumerate(problem.resident_bytes):
            self._end_and_begin(t)
            over_bytes = held_bytes - problem.budget_bytes
            while over_bytes > self.away_bytes and self.idle:
                victim = self.choose(over_bytes - self.away_bytes, self.idle)
                self.idle.remove(victim)
                self.away.add(victim)
                self.away_bytes += self.case.gaps[victim].size_bytes
                late = self.case.step.slot_count if victim in self.begun_before else 0
                evicted[victim] = t + late
        return evicted

    def _end_and_begin(self, t: int) -> None:
        for i in self.ends[t]:
            if i in self.away:
                self.away.remove(i)
                self.away_bytes -= self.case.gaps[i].size_bytes
            elif i in self.idle:
                self.idle.remove(i)
        self.begun_before.difference_update(self.begins[t])
        self.idle += self.begins[t]


def room_after(case: Case, evicted: dict[int, int]) -> Room:
    """Returns the room there is when every evicted storage stays away until its next use."""
    room = Room(case.problem)
    for i, slot in evicted.items():
        room.give(case.gaps[i].size_bytes, slot, case.gaps[i].next_use_slot)
    return room
