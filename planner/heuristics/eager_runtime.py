"""A runtime that gives bytes back once their copy is over, and fetches when told and there is room.

Many heuristics say which storages leave and when copies should begin, and leave the rest to their
runtime: bytes are free when the copy has ended; an allocation that fails waits for copies under
way; a fetch that finds no room waits for room. This walk is that runtime, on the simulator's own
clock, and writes down the anchors at which things come to happen.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from planner.heuristics.heuristic import HeuristicPlan, heuristic_plan
from planner.plan.lanes import Direction, LaneLoad, lane_clock, link_load
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap


class Intent(NamedTuple):
    """What a heuristic wants for one gap.

    Slots count as the gap's do, on past the end of the step.

    Attributes:
        gap: Index of the gap in the problem.
        swap_out_slot: Where the copy to the host is issued; earlier if bytes are missed before.
        swap_in_slot: From here on the copy back is issued as soon as there is room until the next
            use; at the next use in any task.
        is_sync: Whether compute waits for the copy to the host where it is issued.
    """

    gap: int
    swap_out_slot: int
    swap_in_slot: int
    is_sync: bool = False


MAX_STEPS = 6
"""Steps that come out otherwise than the one before; the last one stands for them."""


def walk(problem: Problem, intents: Iterable[Intent]) -> HeuristicPlan:
    """Returns the swaps that come of intents, once steps repeat.

    A copy to the host that is not over, nor waited for, by the next use was for nothing: such gaps
    are taken out, and the step is walked again without them. Where not even all intents together
    make a slot fit, it stays over the budget.
    """
    wanted = {intent.gap: intent for intent in intents}
    while True:
        walked = _Walk(problem, wanted)
        wraps = any(problem.wraps(problem.gaps[i]) for i in wanted)
        swaps = walked.step()
        for _ in range(MAX_STEPS if wraps else 0):
            before, swaps = swaps, walked.step()
            if walked.wasted or swaps == before:
                break
        if not walked.wasted:
            return heuristic_plan(swaps)
        wanted = {i: intent for i, intent in wanted.items() if i not in walked.wasted}


class _Walk:
    """A walk over the slots of step after step; slots count on from the first one."""

    def __init__(self, problem: Problem, wanted: dict[int, Intent]) -> None:
        self.problem = problem
        self.wanted = wanted
        self.clock = lane_clock(problem.link)
        # Budget minus what each slot holds with every wanted gap away from end to end.
        self.spare_bytes = problem.budget_bytes - np.array(problem.floor_bytes(wanted))
        self.begins: list[list[int]] = [[] for _ in range(problem.slot_count)]
        self.ends: list[list[int]] = [[] for _ in range(problem.slot_count)]
        for i in wanted:
            self.begins[problem.gaps[i].first_slot].append(i)
            self.ends[problem.gaps[i].next_use_slot % problem.slot_count].append(i)
        self.begin_slot = -problem.slot_count
        self.begin_us = -problem.compute_us
        self.shift: dict[int, int] = {}
        self.pending_bytes = 0
        self.waiting: list[int] = []
        self.leaving: list[int] = []
        self.away: set[int] = set()
        self.told_later: dict[int, list[int]] = defaultdict(list)
        self.told: list[int] = []
        self.out_slot: dict[int, int] = {}
        self.release_slot: dict[int, int] = {}
        self.in_slot: dict[int, int] = {}
        self.wasted: set[int] = set()
        self.swaps: list[TimedSwap] = []
        self.now_us = self.waited_us = 0.0

    def step(self) -> list[TimedSwap]:
        """Walks one step and returns the swaps that end in it."""
        self.begin_slot += self.problem.slot_count
        self.begin_us += self.problem.compute_us
        self.swaps = []
        for t in range(self.problem.slot_count):
            self.slot(t)
        return self.swaps

    def slot(self, at: int) -> None:
        """Plays the anchor of a slot in the order of the actions, and runs the slot."""
        if not (self.begins[at] or self.waiting or self.leaving or self.away or self.ends[at]):
            return
        arrival_us = self.now_us = self.begin_us + self.problem.elapsed_us[at] + self.waited_us
        t = self.begin_slot + at
        self.end_and_begin(t, at)
        self.swap_out(t, at)
        self.release_what_must(t, at)
        self.release_what_has_left(t)
        self.swap_in(t, at)
        self.await_and_note(t, at)
        self.waited_us += self.now_us - arrival_us

    def end_and_begin(self, t: int, at: int) -> None:
        for i in self.ends[at]:
            if i in self.leaving:
                self.wasted.add(i)
                self.leaving.remove(i)
                self.pending_bytes -= self.size_bytes(i)
            elif i in self.waiting:
                self.waiting.remove(i)
                self.pending_bytes -= self.size_bytes(i)
        for i in self.begins[at]:
            self.shift[i] = t - self.problem.gaps[i].first_slot
            self.waiting.append(i)
            self.pending_bytes += self.size_bytes(i)

    def swap_out(self, t: int, at: int) -> None:
        for i in [i for i in self.waiting if self.wanted[i].swap_out_slot + self.shift[i] <= t]:
            self.issue_out(i, t)
        missing_bytes = self.pending_bytes - self.spare_bytes[at]
        if not self.waiting or missing_bytes <= 0:
            return
        missing_bytes -= sum(map(self.size_bytes, self.leaving))
        for i in tuple(self.waiting):
            if missing_bytes > 0:
                self.issue_out(i, t)
                missing_bytes -= self.size_bytes(i)

    def issue_out(self, i: int, t: int) -> None:
        storage = self.problem.gaps[i].storage
        self.clock.issue(Direction.D2H, storage, self.load(i), self.now_us)
        self.out_slot[i] = t
        self.waiting.remove(i)
        self.leaving.append(i)

    def release_what_must(self, t: int, at: int) -> None:
        while self.leaving and self.pending_bytes > self.spare_bytes[at]:
            self.wait_and_release(self.leaving[0], t)
        for i in tuple(self.leaving):
            if self.wanted[i].is_sync:
                self.wait_and_release(i, t)

    def wait_and_release(self, i: int, t: int) -> None:
        self.now_us = max(self.now_us, self.end_us(Direction.D2H, i))
        self.release(i, t)

    def release_what_has_left(self, t: int) -> None:
        while self.leaving and self.end_us(Direction.D2H, self.leaving[0]) <= self.now_us:
            self.release(self.leaving[0], t)

    def release(self, i: int, t: int) -> None:
        self.leaving.remove(i)
        self.pending_bytes -= self.size_bytes(i)
        self.release_slot[i] = t
        self.away.add(i)
        told_slot = max(self.wanted[i].swap_in_slot + self.shift[i], t + 1)
        if told_slot < self.next_use_slot(i):
            self.told_later[told_slot].append(i)

    def swap_in(self, t: int, at: int) -> None:
        told = self.told_later.pop(t, None)
        if told:
            self.told += told
            self.told.sort(key=self.return_order)
        due = [i for i in self.ends[at] if i in self.away]
        roomy = [i for i in self.told if i not in due and self.has_room(i, t)]
        for i in sorted(due + roomy, key=self.return_order):
            if i in due or self.has_room(i, t):
                self.issue_in(i, t)
        self.told = [i for i in self.told if i in self.away]

    def return_order(self, i: int) -> tuple[int, int]:
        return (self.next_use_slot(i), i)

    def has_room(self, i: int, t: int) -> bool:
        size_bytes, spare_bytes = self.size_bytes(i), self.spare_bytes
        at, count = t - self.begin_slot, self.problem.slot_count
        if spare_bytes[at] - self.pending_bytes < size_bytes:
            return False
        end = self.next_use_slot(i) - self.begin_slot
        if end <= count:
            return bool(spare_bytes[at:end].min() >= size_bytes)
        both = (spare_bytes[at:], spare_bytes[: end - count])
        return all(part.min() >= size_bytes for part in both)

    def issue_in(self, i: int, t: int) -> None:
        gap = self.problem.gaps[i]
        self.away.remove(i)
        self.in_slot[i] = t
        self.take_bytes(t, self.next_use_slot(i), gap.size_bytes)
        self.clock.issue(Direction.H2D, gap.storage, self.load(i), self.now_us)

    def take_bytes(self, first: int, end: int, size_bytes: int) -> None:
        """Takes bytes from slots, for this time only."""
        at, count = first - self.begin_slot, self.problem.slot_count
        until = end - self.begin_slot
        self.spare_bytes[max(at, 0) : min(until, count)] -= size_bytes
        if until > count:
            self.spare_bytes[: until - count] -= size_bytes
        if at < 0:
            self.spare_bytes[at:] -= size_bytes

    def await_and_note(self, t: int, at: int) -> None:
        for i in self.ends[at]:
            if i in self.in_slot:
                self.now_us = max(self.now_us, self.end_us(Direction.H2D, i))
                in_slot = self.in_slot.pop(i)
                self.take_bytes(in_slot, t, -self.size_bytes(i))
                anchors = (self.out_slot[i], self.release_slot[i], in_slot, t)
                out, release, back, awaited = (slot - self.shift[i] for slot in anchors)
                storage = self.problem.gaps[i].storage
                self.swaps.append(TimedSwap(i, storage, out, release, back, awaited))

    def end_us(self, direction: Direction, i: int) -> float:
        return self.clock.end_us(direction, self.problem.gaps[i].storage, self.now_us)

    def next_use_slot(self, i: int) -> int:
        return self.problem.gaps[i].next_use_slot + self.shift[i]

    def load(self, i: int) -> LaneLoad:
        return link_load(self.problem.link, self.size_bytes(i))

    def size_bytes(self, i: int) -> int:
        return self.problem.gaps[i].size_bytes
