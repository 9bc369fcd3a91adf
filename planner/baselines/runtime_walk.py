"""A runtime that gives bytes back once their copy is over, and fetches when told and there is room.

Many baselines say which storages leave and when copies should begin, and leave the rest to their
runtime: bytes are free when the copy has ended; an allocation that fails waits for copies under
way; a fetch that finds no room waits for room. This walk is that runtime, on the simulator's own
clock, and writes down the anchors at which things come to happen.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from planner.baselines.ruled_trip import Ruled, RuledTrip, ruled
from planner.lane_clock import Direction, lane_clock
from planner.problem import Problem


class Intent(NamedTuple):
    """What a baseline wants for one gap.

    Attributes:
        gap: Index of the gap in the problem.
        swap_out_slot: Where the copy to the host is issued; earlier if bytes are missed before.
        swap_in_slot: From here on the copy back is issued as soon as there is room until the next
            use; at the next use in any case.
        is_sync: Whether compute waits for the copy to the host where it is issued.
    """

    gap: int
    swap_out_slot: int
    swap_in_slot: int
    is_sync: bool = False


def walk(problem: Problem, intents: Iterable[Intent]) -> Ruled:
    """Returns the trips that come of intents.

    A copy to the host that is not over, nor waited for, by the next use was for nothing: such gaps
    are taken out, and the step is walked again without them. Where not even all intents together
    make a slot fit, it stays over the budget.
    """
    wanted = {intent.gap: intent for intent in intents}
    while True:
        walked = _Walk(problem, wanted)
        for t in range(problem.slot_count):
            walked.slot(t)
        if not walked.wasted:
            return ruled(walked.trips)
        wanted = {i: intent for i, intent in wanted.items() if i not in walked.wasted}


class _Walk:
    """One walk over the slots."""

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
            self.ends[problem.gaps[i].next_use_slot].append(i)
        self.pending_bytes = 0
        self.waiting: list[int] = []
        self.leaving: list[int] = []
        self.away: set[int] = set()
        self.told_later: list[list[int]] = [[] for _ in range(problem.slot_count)]
        self.told: list[int] = []
        self.out_slot: dict[int, int] = {}
        self.release_slot: dict[int, int] = {}
        self.in_slot: dict[int, int] = {}
        self.wasted: set[int] = set()
        self.trips: list[RuledTrip] = []
        self.now_us = self.waited_us = 0.0

    def slot(self, t: int) -> None:
        """Plays anchor t in the order of the actions, and runs the slot."""
        if not (self.begins[t] or self.waiting or self.leaving or self.away or self.ends[t]):
            return
        arrival_us = self.now_us = self.problem.elapsed_us[t] + self.waited_us
        self.begin_and_end(t)
        self.swap_out(t)
        self.release_what_must(t)
        self.release_what_has_left(t)
        self.swap_in(t)
        self.await_and_note(t)
        self.waited_us += self.now_us - arrival_us

    def begin_and_end(self, t: int) -> None:
        for i in self.ends[t]:
            if i in self.leaving:
                self.wasted.add(i)
                self.leaving.remove(i)
                self.pending_bytes -= self.size_bytes(i)
            elif i in self.waiting:
                self.waiting.remove(i)
                self.pending_bytes -= self.size_bytes(i)
        for i in self.begins[t]:
            self.waiting.append(i)
            self.pending_bytes += self.size_bytes(i)

    def swap_out(self, t: int) -> None:
        for i in [i for i in self.waiting if self.wanted[i].swap_out_slot <= t]:
            self.issue_out(i, t)
        missing_bytes = self.pending_bytes - self.spare_bytes[t]
        if not self.waiting or missing_bytes <= 0:
            return
        missing_bytes -= sum(map(self.size_bytes, self.leaving))
        for i in tuple(self.waiting):
            if missing_bytes > 0:
                self.issue_out(i, t)
                missing_bytes -= self.size_bytes(i)

    def issue_out(self, i: int, t: int) -> None:
        storage = self.problem.gaps[i].storage
        self.clock.issue(Direction.D2H, storage, self.size_bytes(i), self.now_us)
        self.out_slot[i] = t
        self.waiting.remove(i)
        self.leaving.append(i)

    def release_what_must(self, t: int) -> None:
        while self.leaving and self.pending_bytes > self.spare_bytes[t]:
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
        told_slot = max(self.wanted[i].swap_in_slot, t + 1)
        if told_slot < self.problem.gaps[i].next_use_slot:
            self.told_later[told_slot].append(i)

    def swap_in(self, t: int) -> None:
        if self.told_later[t]:
            self.told += self.told_later[t]
            self.told.sort(key=self.return_order)
        due = [i for i in self.ends[t] if i in self.away]
        roomy = [i for i in self.told if i not in due and self.has_room(i, t)]
        for i in sorted(due + roomy, key=self.return_order):
            if i in due or self.has_room(i, t):
                self.issue_in(i, t)
        self.told = [i for i in self.told if i in self.away]

    def return_order(self, i: int) -> tuple[int, int]:
        return (self.problem.gaps[i].next_use_slot, i)

    def has_room(self, i: int, t: int) -> bool:
        size_bytes, end_slot = self.size_bytes(i), self.problem.gaps[i].next_use_slot
        if self.spare_bytes[t] - self.pending_bytes < size_bytes:
            return False
        return bool(self.spare_bytes[t:end_slot].min() >= size_bytes)

    def issue_in(self, i: int, t: int) -> None:
        gap = self.problem.gaps[i]
        self.away.remove(i)
        self.spare_bytes[t : gap.next_use_slot] -= gap.size_bytes
        self.clock.issue(Direction.H2D, gap.storage, gap.size_bytes, self.now_us)
        self.in_slot[i] = t

    def await_and_note(self, t: int) -> None:
        for i in self.ends[t]:
            if i in self.in_slot:
                self.now_us = max(self.now_us, self.end_us(Direction.H2D, i))
                anchors = (self.out_slot[i], self.release_slot[i], self.in_slot[i])
                self.trips.append(RuledTrip(i, *anchors, t))

    def end_us(self, direction: Direction, i: int) -> float:
        return self.clock.end_us(direction, self.problem.gaps[i].storage, self.now_us)

    def size_bytes(self, i: int) -> int:
        return self.problem.gaps[i].size_bytes
