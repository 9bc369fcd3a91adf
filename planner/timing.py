"""Swap timings for a chosen set of gaps: a list scheduler with its own clock.

It walks the slots as the simulator does and decides at each anchor what to issue, what to give
back, and what to take again. Memory is kept in program order and never depends on the clock: a set
that fits with all its gaps away from end to end (`Problem.fits`) always gets a timing, since a
release can be forced where a slot would not fit. The clock only decides what is worth waiting for.
"""

from bisect import insort
from collections import defaultdict, deque
from dataclasses import replace

import numpy as np

from planner.draft import NO_HOLD, Draft, OutOrder, Timing, Trip, Wait
from planner.problem import Problem


def schedule_trips(problem: Problem, draft: Draft) -> Timing:
    """Builds the timing of a draft whose set fits.

    Gaps that turn out to be in nobody's way are left resident, so the trips may be fewer.
    """
    while True:
        walk = _Walk(problem, draft)
        for t in range(problem.slot_count):
            walk.slot(t)
        if not walk.wasted:
            return Timing(draft.chosen, tuple(walk.trips()), tuple(walk.waits))
        # Copies for nothing took up the lane: once more without them. What held their bytes
        # resident fits without them too.
        draft = replace(draft, chosen=draft.chosen - walk.wasted)


class _Walk:
    """One walk over the slots.

    Gaps go from `waiting` (begun, copy not issued) to `leaving` (issued, in order of issue) to
    `away` (given back, in order of next use); those that end before just stay.
    """

    def __init__(self, problem: Problem, draft: Draft) -> None:
        self.problem = problem
        self.draft = draft
        self.begins: list[list[int]] = [[] for _ in range(problem.slot_count)]
        self.ends: list[list[int]] = [[] for _ in range(problem.slot_count)]
        for i in sorted(draft.chosen):
            self.begins[problem.gaps[i].first_slot].append(i)
            self.ends[problem.gaps[i].next_use_slot].append(i)
        self.told: dict[int, list[int]] = defaultdict(list)
        for i in sorted(draft.chosen & draft.holds.keys()):
            self.told[draft.holds[i].release_slot].append(i)
        # Budget minus what each slot holds if every chosen gap is away from end to end; copies
        # back issued early are taken off as they are decided.
        self.spare_bytes = problem.budget_bytes - np.array(problem.floor_bytes(draft.chosen))
        self.pending_bytes = 0
        self.waiting: list[int] = []
        self.leaving: deque[int] = deque()
        self.away: list[int] = []
        self.wasted: set[int] = set()
        self.out_key = {i: _out_key(problem, draft, i) for i in draft.chosen}
        self.earliest_us = _earliest_starts_us(problem, draft)
        self.out_end_us: dict[int, float] = {}
        self.in_end_us: dict[int, float] = {}
        self.out_slot: dict[int, int] = {}
        self.release_slot: dict[int, int] = {}
        self.in_slot: dict[int, int] = {}
        self.waits: list[Wait] = []
        self.out_free_us = self.in_free_us = 0.0
        self.arrival_us = self.now_us = self.waited_us = 0.0

    def slot(self, t: int) -> None:
        """Decides everything at anchor t, in the order of the actions, and runs the slot."""
        if not (self.begins[t] or self.waiting or self.leaving or self.away or self.ends[t]):
            return
        self.arrival_us = self.now_us = self.problem.elapsed_us[t] + self.waited_us
        self.begin_and_end(t)
        self.make_room(t)
        self.swap_in_due(t)
        after_us = self.now_us
        for i in self.ends[t]:
            # The copies issued below come behind these on their lane, so the wait is known.
            if i in self.in_end_us:
                after_us = self.wait_for(t, i, after_us, self.in_end_us[i])
        next_anchor_us = after_us + self.problem.durations_us[t]
        self.swap_out_ahead(t, next_anchor_us)
        self.swap_in_ahead(t, next_anchor_us)
        self.waited_us += after_us - self.arrival_us

    def wait_for(self, t: int, i: int, now_us: float, end_us: float) -> float:
        if end_us <= now_us:
            return now_us
        self.waits.append(Wait(t, i, end_us - now_us))
        return end_us

    def begin_and_end(self, t: int) -> None:
        for i in self.ends[t]:
            if i not in self.release_slot:
                self.pending_bytes -= self.problem.gaps[i].size_bytes
                if i in self.out_slot:
                    self.leaving.remove(i)
                    self.wasted.add(i)
                else:
                    self.waiting.remove(i)
        for i in self.begins[t]:
            self.waiting.append(i)
            self.pending_bytes += self.problem.gaps[i].size_bytes
        if self.begins[t]:
            self.waiting.sort(key=self.out_key.__getitem__)

    def make_room(self, t: int) -> None:
        """Gives back what has left; waits for more if the slot would not fit or it was told to."""
        while self.pending_bytes > self.spare_bytes[t]:
            if not self.leaving:
                missing_bytes = int(self.pending_bytes - self.spare_bytes[t])
                self.issue_out(self.next_out(missing_bytes), t)
            self.wait_and_release(t)
        for i in self.told[t]:
            if i in self.waiting:
                self.issue_out(i, t)
            while i in self.leaving:
                self.wait_and_release(t)
        while self.leaving and self.out_end_us[self.leaving[0]] <= self.now_us:
            self.release(self.leaving[0], t)

    def wait_and_release(self, t: int) -> None:
        i = self.leaving[0]
        self.now_us = self.wait_for(t, i, self.now_us, self.out_end_us[i])
        self.release(i, t)

    def next_out(self, missing_bytes: int) -> int:
        """Which waiting gap must go now that a slot does not fit."""
        if self.draft.policy.out_order is OutOrder.BEST_FIT:
            sizes_bytes = {i: self.problem.gaps[i].size_bytes for i in self.waiting}
            enough = [i for i in self.waiting if sizes_bytes[i] >= missing_bytes]
            if enough:
                return min(enough, key=sizes_bytes.__getitem__)
        return self.waiting[0]

    def issue_out(self, i: int, t: int) -> None:
        start_us = max(self.out_free_us, self.arrival_us)
        self.out_free_us = self.out_end_us[i] = start_us + self.problem.d2h_us[i]
        self.out_slot[i] = t
        self.waiting.remove(i)
        self.leaving.append(i)

    def release(self, i: int, t: int) -> None:
        self.leaving.popleft()
        self.pending_bytes -= self.problem.gaps[i].size_bytes
        self.release_slot[i] = t
        insort(self.away, i, key=self.in_key)

    def in_key(self, i: int) -> tuple[int, int]:
        # As the schedule orders them (`planner.schedule.lower_swaps`).
        return (self.problem.gaps[i].next_use_slot, self.problem.gaps[i].storage)

    def swap_out_ahead(self, t: int, next_anchor_us: float) -> None:
        """Issues copies to the host while the lane would fall idle before the next anchor."""
        for i in tuple(self.waiting):
            if self.out_free_us >= next_anchor_us:
                return
            if self.draft.holds.get(i, NO_HOLD).out_slot <= t and self.is_worth_leaving(i, t):
                self.issue_out(i, t)

    def is_worth_leaving(self, i: int, t: int) -> bool:
        """Whether a copy issued now ends before the gap's last slot, or may be waited for."""
        end_slot = self.problem.gaps[i].next_use_slot
        end_us = max(self.out_free_us, self.arrival_us) + self.problem.d2h_us[i]
        if end_us <= self.problem.elapsed_us[end_slot - 1] + self.waited_us:
            return True
        return bool(self.spare_bytes[t:end_slot].min() < self.pending_bytes)

    def swap_in_due(self, t: int) -> None:
        while self.away and self.problem.gaps[self.away[0]].next_use_slot == t:
            self.issue_in(self.away[0], t)

    def swap_in_ahead(self, t: int, next_anchor_us: float) -> None:
        """Issues copies back while the lane would fall idle before the next anchor."""
        for i in tuple(self.away):
            if self.in_free_us >= next_anchor_us:
                return
            if self.release_slot[i] == t or self.draft.holds.get(i, NO_HOLD).in_slot > t:
                # Taking again what was given back at this very anchor would free nothing.
                continue
            if self.problem.elapsed_us[t + 1] <= self.earliest_us[i]:
                return
            if self.has_room(i, t):
                self.issue_in(i, t)
            elif not self.draft.policy.overtake:
                return

    def has_room(self, i: int, t: int) -> bool:
        gap = self.problem.gaps[i]
        if self.spare_bytes[t] - self.pending_bytes < gap.size_bytes:
            return False
        return bool(self.spare_bytes[t : gap.next_use_slot].min() >= gap.size_bytes)

    def issue_in(self, i: int, t: int) -> None:
        gap = self.problem.gaps[i]
        self.away.remove(i)
        self.spare_bytes[t : gap.next_use_slot] -= gap.size_bytes
        self.in_free_us = max(self.in_free_us, self.now_us) + self.problem.h2d_us[i]
        self.in_end_us[i] = self.in_free_us
        self.in_slot[i] = t

    def trips(self) -> list[Trip]:
        """The trips decided, in order of issue."""
        return [
            Trip(i, out_slot, self.release_slot[i], self.in_slot[i])
            for i, out_slot in self.out_slot.items()
            if i in self.release_slot
        ]


def _out_key(problem: Problem, draft: Draft, i: int) -> tuple[int, int, int, int]:
    gap = problem.gaps[i]
    rank = draft.holds.get(i, NO_HOLD).rank
    order = draft.policy.out_order
    if order in (OutOrder.FIRST_BEGUN, OutOrder.BEST_FIT):
        return (rank, gap.first_slot, -gap.next_use_slot, i)
    if order is OutOrder.LAST_USED:
        return (rank, -gap.next_use_slot, gap.first_slot, i)
    if order is OutOrder.FIRST_NEEDED:
        return (rank, problem.next_over_slot[gap.first_slot], -gap.next_use_slot, i)
    return (rank, -gap.size_bytes, gap.first_slot, i)


def _earliest_starts_us(problem: Problem, draft: Draft) -> dict[int, float]:
    """When each copy back may start, on a clock without stalls (see `Policy.lead`).

    The latest starts come from a backward pass over the lane: copies in order of next use, each
    ending by its own deadline and before the next one starts.
    """
    earliest_us: dict[int, float] = {}
    latest_us = float("inf")
    by_use = sorted(draft.chosen, key=lambda i: (problem.gaps[i].next_use_slot, i))
    for i in reversed(by_use):
        deadline_us = problem.elapsed_us[problem.gaps[i].next_use_slot]
        latest_us = min(latest_us, deadline_us) - problem.h2d_us[i]
        earliest_us[i] = deadline_us - draft.policy.lead * (deadline_us - latest_us)
    return earliest_us
