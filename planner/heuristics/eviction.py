"""Bytes free in each slot, and eviction on demand: nothing leaves until something does not fit."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from planner.heuristics.task import Task
from planner.problem.problem import Problem

ChooseVictim = Callable[[int, Sequence[int]], int]
"""From the bytes missing and the gaps whose storages are resident and idle, the one to evict."""

MAX_STEPS = 8
"""Steps that evict otherwise than the one before; the last one stands for them."""


class FreeBytes:
    """What is left of a budget, slot by slot.

    Slots count on past the end of the step, as those of gaps do: of T slots, T + 3 is slot 3.

    Args:
        problem: The step.
        away_from: From which slot on each gap's storage is away until its next use.
        budget_bytes: The budget; the problem's if None.
    """

    def __init__(
        self, problem: Problem, away_from: Mapping[int, int], budget_bytes: int | None = None
    ) -> None:
        budget = problem.budget_bytes if budget_bytes is None else budget_bytes
        self.by_slot = budget - np.array(problem.resident_bytes)
        for i, slot in away_from.items():
            self.give(problem.gaps[i].size_bytes, slot, problem.gaps[i].next_use_slot)

    def give(self, size_bytes: int, first_slot: int, end_slot: int) -> None:
        """Something is away from one slot until another, less than a step later.

        With negative bytes, it is back for so long.
        """
        count = len(self.by_slot)
        if first_slot < count:
            self.by_slot[first_slot : min(end_slot, count)] += size_bytes
        if end_slot > count:
            self.by_slot[max(0, first_slot - count) : end_slot - count] += size_bytes

    def first_with_room(self, size_bytes: int, earliest_slot: int, latest_slot: int) -> int:
        """Returns the first slot from which on what is away until the latest one fits.

        None before the earliest one; the latest if nothing earlier will do.
        """
        slot = latest_slot
        while slot > earliest_slot and self.by_slot[(slot - 1) % len(self.by_slot)] >= size_bytes:
            slot -= 1
        return slot

    def has_room(self, size_bytes: int, first_slot: int, end_slot: int) -> bool:
        """Whether so many bytes more fit from a slot until another, both within two steps."""
        wrapped = self.by_slot[: max(0, end_slot - len(self.by_slot))]
        within = self.by_slot[first_slot:end_slot]
        return all((part >= size_bytes).all() for part in (within, wrapped))

    def all_fit(self) -> bool:
        """Whether every slot is within the budget."""
        return bool(self.by_slot.min() >= 0)


def begins_and_ends(
    problem: Problem, chosen: Iterable[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the chosen gaps that begin in each slot, and those whose next use is there."""
    begins: list[list[int]] = [[] for _ in range(problem.slot_count)]
    ends: list[list[int]] = [[] for _ in range(problem.slot_count)]
    for i in chosen:
        begins[problem.gaps[i].first_slot].append(i)
        ends[problem.gaps[i].next_use_slot % problem.slot_count].append(i)
    return begins, ends


def evictions(task: Task, movable: Sequence[int], choose: ChooseVictim) -> dict[int, int]:
    """Scans the step as an allocator sees it, over and over until two steps evict alike.

    Only storages of movable gaps are evicted, and each is back at its next use. Where no victim is
    left the slot stays over the budget, and the scan goes on.

    Returns:
        The slot at which each evicted gap's storage leaves, counted as the gap's slots are, in
        order of eviction.
    """
    gaps, count = task.gaps, task.step.slot_count
    begins, ends = begins_and_ends(task.problem, movable)
    idle: list[int] = []
    away: set[int] = set()
    away_bytes = 0
    evicted: dict[int, int] = {}
    for step in range(MAX_STEPS + 1):
        before, evicted, begun_before = evicted, {}, set(idle)
        for t, held_bytes in enumerate(task.problem.resident_bytes):
            back = away.intersection(ends[t])
            away -= back
            away_bytes -= sum(gaps[i].size_bytes for i in back)
            idle = [*(i for i in idle if i not in ends[t]), *begins[t]]
            begun_before.difference_update(begins[t])
            over_bytes = held_bytes - task.problem.budget_bytes
            while over_bytes > away_bytes and idle:
                victim = choose(over_bytes - away_bytes, idle)
                idle.remove(victim)
                away.add(victim)
                away_bytes += gaps[victim].size_bytes
                evicted[victim] = t + (count if victim in begun_before else 0)
        if step and evicted == before:
            break
    return evicted
