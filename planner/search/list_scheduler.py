"""Swap timings for a chosen set of gaps: a list scheduler with its own clock.

It walks the slots as the simulator does and decides at each anchor what to issue, what to give
back, and what to take again. Memory is kept in program order and never depends on the clock: a set
that fits with all its gaps away from end to end (`Problem.fits`) always gets a timing, since a
release can be forced where a slot would not fit. The clock only decides what is worth waiting for.

[Note: Steps that repeat] If a gap wraps round the step boundary, how a step goes depends on how the
one before ended. The walk goes through step after step until one decides the same as the one
before; the trips of that step are the timing. Only then do they fit together: a trip that wraps was
begun in one step and ended in the next. Should steps never agree, the boundary is shut: what wraps
has left by the end of a step and starts back in the next, and each step has a clock of its own, so
that steps differ at most by the host copies they find. Should they do so for ever, every trip makes
its own copy, and all steps are alike.

[Note: Times that are one] Where copies and slots take commensurate times, one ends just when the
other does, but for rounding, which differs from step to step. So times within `SAME_US` are one.
"""

from bisect import insort
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.plan.lanes import SAME_US
from planner.problem.gaps import Gap
from planner.problem.problem import REPEATED_STEPS, Problem
from planner.problem.timed_swap import TimedSwap
from planner.search.candidate import NO_HOLD, Draft, OutOrder, Timing, Wait
from planner.search.walk_lanes import walk_lanes

MAX_STEPS = REPEATED_STEPS - 2
"""Steps walked before the boundary is shut."""


def schedule_swaps(problem: Problem, draft: Draft) -> Timing:
    """Builds the timing of a draft whose set fits.

    Gaps that turn out to be in nobody's way are left resident, so the trips may be fewer.
    """
    while True:
        walk = _settled_walk(problem, draft)
        if not walk.wasted:
            return Timing(draft.chosen, walk.trips(), tuple(walk.waits))
        # Copies for nothing took up the lane: once more without them. What held their bytes
        # resident fits without them too.
        draft = replace(draft, chosen=draft.chosen - walk.wasted)


def _settled_walk(problem: Problem, draft: Draft) -> "_Walk":
    """Walks until a step decides the same as the one before."""
    wraps = any(problem.wraps(problem.gaps[i]) for i in draft.chosen)
    without_copies = replace(draft, keeps_copies=False)
    for tried, shut in ((draft, False), (draft, True), (without_copies, True)):
        walk = _Walk(problem, tried, shut=shut)
        walk.step()
        if not wraps:
            return walk
        for _ in range(MAX_STEPS - 1):
            before = walk.decided
            walk.step()
            if walk.decided == before:
                return walk
    raise AssertionError("steps that begin alike decide alike")


class _Decided(NamedTuple):
    """One trip as decided, with its place among what is issued at the same anchor."""

    place: tuple[int, int]
    trip: TimedSwap


class _Walk:
    """A walk over the slots of one step after the other.

    Gaps go from `waiting` (begun, copy not issued) to `leaving` (issued, in order of issue) to
    `away` (given back, in order of next use); those that end before just stay. Slots count on from
    step to step; `shift` brings a gap's own slots to this count.
    """

    def __init__(self, problem: Problem, draft: Draft, *, shut: bool) -> None:
        self.problem = problem
        self.draft = draft
        self.shut = shut
        self.slot_count = problem.slot_count
        self.elapsed_us = problem.repeated_us
        self.begins: list[list[int]] = [[] for _ in range(problem.slot_count)]
        self.ends: list[list[int]] = [[] for _ in range(problem.slot_count)]
        for i in sorted(draft.chosen):
            self.begins[problem.gaps[i].first_slot].append(i)
            self.ends[problem.gaps[i].next_use_slot % problem.slot_count].append(i)
        self.told: dict[int, list[int]] = defaultdict(list)
        for i in sorted(draft.chosen & draft.holds.keys()):
            self.told[draft.holds[i].release_slot % problem.slot_count].append(i)
        # Budget minus what each slot of this step and the next holds if every chosen gap is away
        # from end to end; copies back issued early are taken off as they are decided.
        self.base_spare_bytes = problem.budget_bytes - np.array(problem.floor_bytes(draft.chosen))
        self.spare_bytes = np.concatenate([self.base_spare_bytes, self.base_spare_bytes])
        self.begin_slot = -problem.slot_count
        self.pending_bytes = 0
        self.waiting: list[int] = []
        self.leaving: deque[int] = deque()
        self.away: list[int] = []
        self.wasted: set[int] = set()
        self.out_key = {i: _out_key(problem, draft, i) for i in draft.chosen}
        self.lead_us = _leads_us(problem, draft)
        self.copied_turn: dict[tuple[int, int], int] = {}
        self.clean: set[int] = set()
        self.shift: dict[int, int] = {}
        self.lanes = walk_lanes(problem)
        self.blocked_until: dict[int, int] = {}
        self.out_slot: dict[int, int] = {}
        self.out_place: dict[int, tuple[int, int]] = {}
        self.release_slot: dict[int, int] = {}
        self.in_slot: dict[int, int] = {}
        self.decided: dict[int, _Decided] = {}
        self.waits: list[Wait] = []
        self.arrival_us = self.now_us = self.waited_us = 0.0
        self.issued_here = 0
        self.begin_away()

    def begin_away(self) -> None:
        """What wraps is away when the first step begins."""
        for i in sorted(self.draft.chosen):
            gap = self.problem.gaps[i]
            if self.problem.wraps(gap):
                self.shift[i] = -self.slot_count
                self.go_away(i, gap.first_slot - self.slot_count)

    def step(self) -> None:
        """Walks one step; `decided`, `waits` and `wasted` are those of the last one."""
        count = self.slot_count
        if self.shut and self.begin_slot >= 0:
            self.begin_anew()
        self.begin_slot += count
        self.spare_bytes = np.concatenate([self.spare_bytes[count:], self.base_spare_bytes])
        self.decided = {}
        self.waits = []
        self.wasted = set()
        for t in range(self.begin_slot, self.begin_slot + count):
            self.slot(t)

    def begin_anew(self) -> None:
        """Nothing is on its way over a shut boundary: slots and times count from there again."""
        records = (
            self.shift,
            self.out_slot,
            self.release_slot,
            self.in_slot,
            self.blocked_until,
        )
        for record in records:
            for i in record:
                record[i] -= self.slot_count
        self.begin_slot -= self.slot_count
        self.lanes = walk_lanes(self.problem)
        self.waited_us = 0.0

    def slot(self, t: int) -> None:
        """Decides everything at anchor t, in the order of the actions, and runs the slot."""
        at = t % self.slot_count
        begins, ends = self.begins[at], self.ends[at]
        self.arrival_us = self.now_us = self.elapsed_us[t] + self.waited_us
        if not (begins or ends or self.told[at]) and self.is_quiet(t, at):
            return
        self.issued_here = 0
        self.lanes.arrive(self.arrival_us)
        self.end_unused(t)
        self.begin(t)
        self.make_room(t)
        self.swap_in_due(t)
        awaited = [i for i in ends if i in self.lanes.in_end_us]
        # The copies issued below come behind the awaited ones on their lane, but where lanes share
        # a rate they may slow them: so it is asked anew when the next anchor comes.
        self.swap_out_ahead(t, self.next_anchor_us(at, awaited))
        self.swap_in_ahead(t, self.next_anchor_us(at, awaited))
        after_us = self.now_us
        for i in awaited:
            after_us = self.wait_for(t, i, after_us, self.lanes.in_end_us[i])
            self.decide(i)
        self.waited_us += after_us - self.arrival_us

    def next_anchor_us(self, at: int, awaited: Iterable[int]) -> float:
        back_us = (self.lanes.in_end_us[i] for i in awaited)
        return max([self.now_us, *back_us]) + self.problem.durations_us[at]

    def is_quiet(self, t: int, at: int) -> bool:
        """Whether there is nothing to do at an anchor where no gap begins or ends."""
        if not (self.waiting or self.leaving or self.away):
            return True
        if self.shut and at == self.slot_count - 1:
            return False
        if self.pending_bytes > self.spare_bytes[t - self.begin_slot]:
            return False
        if self.leaving and self.lanes.out_end_us[self.leaving[0]] <= self.now_us + SAME_US:
            return False
        next_anchor_us = self.now_us + self.problem.durations_us[at]
        if self.waiting and self.lanes.out_free_us < next_anchor_us - SAME_US:
            return False
        if not self.away or self.lanes.in_free_us >= next_anchor_us - SAME_US:
            return True
        return self.is_too_early(t)

    def is_too_early(self, t: int) -> bool:
        """Whether even the first copy back is not to be issued yet."""
        i = self.away[0]
        may_be_held = self.shut or i in self.draft.holds
        return not may_be_held and self.elapsed_us[t + 1] <= self.lead_end_us(i) + SAME_US

    def lead_end_us(self, i: int) -> float:
        """Until when the copy back is not to be issued, on a clock without stalls."""
        return self.elapsed_us[self.end_slot(i)] - self.lead_us[i]

    def end_slot(self, i: int) -> int:
        return self.problem.gaps[i].next_use_slot + self.shift[i]

    def wait_for(self, t: int, i: int, now_us: float, end_us: float) -> float:
        if end_us <= now_us + SAME_US:
            return now_us
        self.waits.append(Wait(t % self.slot_count, i, end_us - now_us))
        return end_us

    def end_unused(self, t: int) -> None:
        """Gaps that end before their bytes were given back."""
        for i in self.ends[t % self.slot_count]:
            if i not in self.release_slot:
                self.pending_bytes -= self.problem.gaps[i].size_bytes
                if i in self.out_slot:
                    self.leaving.remove(i)
                    self.wasted.add(i)
                else:
                    self.waiting.remove(i)

    def begin(self, t: int) -> None:
        begins = self.begins[t % self.slot_count]
        for i in begins:
            gap = self.problem.gaps[i]
            self.shift[i] = t - gap.first_slot
            for record in (self.out_slot, self.release_slot, self.in_slot, self.blocked_until):
                record.pop(i, None)
            self.lanes.in_end_us.pop(i, None)
            self.clean.discard(i)
            if i not in self.draft.anew and self.has_copy(gap):
                self.clean.add(i)
                self.go_away(i, t)
            else:
                # The copy of the step before is no longer true.
                self.copied_turn.pop((gap.storage, gap.content), None)
                self.waiting.append(i)
                self.pending_bytes += gap.size_bytes
        if begins:
            self.waiting.sort(key=self.out_key.__getitem__)

    def has_copy(self, gap: Gap) -> bool:
        """Whether the host still has these bytes from an earlier trip."""
        if not self.draft.keeps_copies:
            return False
        if gap.lasting:
            return True
        turn = self.copied_turn.get((gap.storage, gap.content))
        return turn is not None and turn < gap.turn

    def go_away(self, i: int, t: int) -> None:
        """A storage leaves without a copy."""
        self.out_slot[i] = self.release_slot[i] = t
        self.out_place[i] = (t % self.slot_count, -1)
        insort(self.away, i, key=self.in_key)

    def make_room(self, t: int) -> None:
        """Gives back what has left; waits for more if the slot would not fit or it was told to."""
        while self.pending_bytes > self.spare_bytes[t - self.begin_slot]:
            if not self.leaving:
                missing_bytes = int(self.pending_bytes - self.spare_bytes[t - self.begin_slot])
                self.issue_out(self.next_out(missing_bytes), t)
            self.wait_and_release(t)
        for i in self.told[t % self.slot_count]:
            if t == self.draft.holds[i].release_slot + self.shift.get(i, t):
                self.send_away(i, t)
        if self.shut and t - self.begin_slot == self.slot_count - 1:
            for i in sorted({*self.waiting, *self.leaving}):
                if self.problem.wraps(self.problem.gaps[i]):
                    self.send_away(i, t)
        while self.leaving and self.lanes.out_end_us[self.leaving[0]] <= self.now_us + SAME_US:
            self.release(self.leaving[0], t)

    def send_away(self, i: int, t: int) -> None:
        if i in self.waiting:
            self.issue_out(i, t)
        while i in self.leaving:
            self.wait_and_release(t)

    def wait_and_release(self, t: int) -> None:
        i = self.leaving[0]
        self.now_us = self.wait_for(t, i, self.now_us, self.lanes.out_end_us[i])
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
        gap = self.problem.gaps[i]
        self.lanes.issue_out(i, self.arrival_us)
        self.out_slot[i] = t
        self.out_place[i] = (t % self.slot_count, self.issued_here)
        self.issued_here += 1
        self.copied_turn[gap.storage, gap.content] = gap.turn
        self.waiting.remove(i)
        self.leaving.append(i)

    def release(self, i: int, t: int) -> None:
        self.leaving.popleft()
        self.pending_bytes -= self.problem.gaps[i].size_bytes
        self.release_slot[i] = t
        insort(self.away, i, key=self.in_key)

    def in_key(self, i: int) -> tuple[int, int]:
        # As the schedule orders them (`planner.plan.schedule.lower_swaps`), but for ties: those
        # that one anchor issues and one anchor awaits are over at the same time in any order.
        return (self.end_slot(i), i)

    def swap_out_ahead(self, t: int, next_anchor_us: float) -> None:
        """Issues copies to the host while the lane would fall idle before the next anchor."""
        for i in tuple(self.waiting):
            if self.lanes.out_free_us >= next_anchor_us - SAME_US:
                return
            held_to = self.draft.holds.get(i, NO_HOLD).out_slot + self.shift[i]
            if held_to <= t and self.is_worth_leaving(i, t):
                self.issue_out(i, t)

    def is_worth_leaving(self, i: int, t: int) -> bool:
        """Whether a copy issued now ends before the gap's last slot, or may be waited for."""
        end_slot = self.end_slot(i)
        end_us = max(self.lanes.out_free_us, self.arrival_us) + self.problem.d2h_us[i]
        if end_us <= self.elapsed_us[end_slot - 1] + self.waited_us + SAME_US:
            return True
        return bool(self.spare_over(t, end_slot).min() < self.pending_bytes)

    def spare_over(self, t: int, end_slot: int) -> NDArray[np.int64]:
        return self.spare_bytes[t - self.begin_slot : end_slot - self.begin_slot]

    def swap_in_due(self, t: int) -> None:
        while self.away and self.end_slot(self.away[0]) == t:
            self.issue_in(self.away[0], t)

    def swap_in_ahead(self, t: int, next_anchor_us: float) -> None:
        """Issues copies back while the lane would fall idle before the next anchor."""
        for i in tuple(self.away):
            if self.lanes.in_free_us >= next_anchor_us - SAME_US:
                return
            held_to = self.draft.holds.get(i, NO_HOLD).in_slot + self.shift[i]
            if self.release_slot[i] == t or held_to > t or self.is_shut_out(i, t):
                # Taking again what was given back at this very anchor would free nothing.
                continue
            if self.elapsed_us[t + 1] <= self.lead_end_us(i) + SAME_US:
                return
            if self.has_room(i, t):
                self.issue_in(i, t)
            elif not self.draft.policy.overtake:
                return

    def is_shut_out(self, i: int, t: int) -> bool:
        """Whether a gap must wait for the next step to come back."""
        return self.shut and self.end_slot(i) >= self.begin_slot + self.slot_count > t

    def has_room(self, i: int, t: int) -> bool:
        size_bytes = self.problem.gaps[i].size_bytes
        if self.spare_bytes[t - self.begin_slot] - self.pending_bytes < size_bytes:
            return False
        if self.blocked_until.get(i, -1) >= t:
            return False
        short = np.flatnonzero(self.spare_over(t, self.end_slot(i)) < size_bytes)
        if short.size:
            # Bytes of a slot are only ever taken: until then there is no need to look again.
            self.blocked_until[i] = t + int(short[-1])
        return not short.size

    def issue_in(self, i: int, t: int) -> None:
        self.away.remove(i)
        self.spare_over(t, self.end_slot(i))[:] -= self.problem.gaps[i].size_bytes
        self.lanes.issue_in(i, self.now_us)
        self.in_slot[i] = t

    def decide(self, i: int) -> None:
        """Keeps the trip of a gap that has ended, in the gap's own slots."""
        gap = self.problem.gaps[i]
        out_slot, release_slot, in_slot = (
            record[i] - self.shift[i] for record in (self.out_slot, self.release_slot, self.in_slot)
        )
        trip = TimedSwap(
            gap=i,
            storage=gap.storage,
            swap_out_slot=out_slot,
            release_slot=release_slot,
            swap_in_slot=in_slot,
            await_slot=gap.next_use_slot,
            clean=i in self.clean,
        )
        self.decided[i] = _Decided(self.out_place[i], trip)

    def trips(self) -> tuple[TimedSwap, ...]:
        """The trips of the last step walked, in order of issue."""
        return tuple(decided.trip for decided in sorted(self.decided.values()))


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


def _leads_us(problem: Problem, draft: Draft) -> dict[int, float]:
    """How long before its deadline each copy back may start (see `Policy.lead`).

    The latest starts come from a backward pass over the lane, on a clock without stalls: copies in
    order of next use, each ending by its own deadline and before the next one starts. Where gaps
    wrap, the pass goes over two steps, since copies for the next one may already crowd the lane.
    """
    count = problem.slot_count
    steps = 2 if any(problem.wraps(problem.gaps[i]) for i in draft.chosen) else 1
    deadlines = [
        (problem.gaps[i].next_use_slot % count + step * count, i)
        for i in draft.chosen
        for step in range(steps)
    ]
    leads_us: dict[int, float] = {}
    latest_us = float("inf")
    for slot, i in sorted(deadlines, reverse=True):
        deadline_us = problem.elapsed_us[slot]
        latest_us = min(latest_us, deadline_us) - problem.h2d_us[i]
        leads_us[i] = draft.policy.lead * (deadline_us - latest_us)
    return leads_us
