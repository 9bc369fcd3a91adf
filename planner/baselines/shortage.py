"""Eviction on demand: nothing leaves until an allocation does not fit."""

from collections.abc import Callable, Sequence

from planner.baselines.case import Case
from planner.baselines.room import Room

ChooseVictim = Callable[[int, Sequence[int]], int]
"""From the bytes missing and the gaps whose storages are resident and idle, the one to evict."""

MAX_STEPS = 8
"""Steps that evict otherwise than the one before; the last one stands for them."""


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
