"""Eviction on demand: nothing leaves until an allocation does not fit."""

from collections.abc import Callable, Sequence

from planner.baselines.case import Case
from planner.baselines.room import Room

ChooseVictim = Callable[[int, Sequence[int]], int]
"""From the bytes missing and the gaps whose storages are resident and idle, the one to evict."""


def evictions(case: Case, movable: Sequence[int], choose: ChooseVictim) -> dict[int, int]:
    """Scans the step as an allocator sees it.

    A storage that was evicted is back at its next use. Where no victim is left the slot stays over
    the budget, and the scan goes on.

    Args:
        case: The task.
        movable: The gaps whose storages may be evicted.
        choose: The rule.

    Returns:
        The slot at which each evicted gap's storage leaves, in order of eviction.
    """
    begins: list[list[int]] = [[] for _ in range(case.step.slot_count)]
    for i in movable:
        begins[case.gaps[i].first_slot].append(i)
    room = Room(case.problem)
    evicted: dict[int, int] = {}
    idle: list[int] = []
    for t in range(case.step.slot_count):
        idle = [i for i in idle if case.gaps[i].next_use_slot > t] + begins[t]
        while room.missing_bytes(t) and idle:
            victim = choose(room.missing_bytes(t), idle)
            idle.remove(victim)
            gap = case.gaps[victim]
            room.give(gap.size_bytes, t, gap.next_use_slot)
            evicted[victim] = t
    return evicted


def room_after(case: Case, evicted: dict[int, int]) -> Room:
    """Returns the room there is when every evicted storage stays away until its next use."""
    room = Room(case.problem)
    for i, slot in evicted.items():
        room.give(case.gaps[i].size_bytes, slot, case.gaps[i].next_use_slot)
    return room
