"""Swap timings for a chosen set of gaps: a list scheduler with its own clock.

It walks the slots as the simulator does and decides at each anchor what to issue, what to give
back, and what to take again. Memory is kept in program order and never depends on the clock: a set
that fits with all its gaps away from end to end (`Problem.fits`) always gets a timing, since a
release can be forced where a slot would not fit. The clock only decides what is worth waiting for.

[Note: Steps that repeat] If a gap wraps round the step boundary, how a step goes depends on how the
one before ended. The walk goes through step after step until one decides the same as the one
before; the swaps of that step are the timing. Only then do they fit together: a swap that wraps was
begun in one step and ended in the next. Should steps never agree, the boundary is shut: what wraps
has left by the end of a step and starts back in the next, and each step has a clock of its own, so
that steps differ at most by the host copies they find. Should they do so for ever, every swap makes
its own copy, and all steps are alike.

[Note: Times that are one] Where copies and slots take commensurate times, one ends just when the
other does, but for rounding, which differs from step to step. So times within `SAME_US` are one.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from planner.plan.lanes import SAME_US, Direction, same_unfinished
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.problem.timed_swap import TimedSwap
from planner.search.candidate import Candidate, OutOrder, Timing
from planner.search.outlook import Outlook
from planner.search.walk_parts import Anchor, Compute, Move, SpareBytes, anchors_of


def schedule_swaps(problem: Problem, candidate: Candidate) -> Timing:
    """Builds the timing of a candidate whose set fits.

    Gaps whose bytes turn out to be in no slot's way are left resident, so the swaps may be fewer.
    """
    timing = schedule_within(problem, candidate, math.inf)
    assert timing is not None
    return timing


def schedule_within(
    problem: Problem, candidate: Candidate, most_us: float, first_beyond_us: float = 0.0
) -> Timing | None:
    """Builds it as `schedule_swaps` does, or gives up once compute waits longer in one step.

    The steps before the last one walked hardly wait longer than that one, but for the first, if all
    that wraps is soon wanted back: that one may wait longer by as much as others of its kind did.
    So most of what a search tries is given up early.
    """
    while True:
        settled = _settled_walk(problem, candidate, most_us, first_beyond_us)
        if settled is None:
            return None
        walk, beyond_us = settled
        if not walk.wasted:
            waits = tuple(walk.compute.waits)
            return Timing(candidate.chosen, walk.swaps(), waits, beyond_us)
        # Copies for nothing took up the lane: once more without them. What held their bytes
        # resident fits without them too.
        candidate = replace(candidate, chosen=candidate.chosen - walk.wasted)


def _settled_walk(
    problem: Problem, candidate: Candidate, most_us: float, first_beyond_us: float
) -> "tuple[_Walk, float] | None":
    """Walks until a step decides the same as the one before; None if one waits too long.

    With it comes by how much the first step waited longer.
    """
    wraps = any(problem.wraps(problem.gaps[i]) for i in candidate.chosen)
    without_copies = replace(candidate, keeps_copies=False)
    for tried, shut in ((candidate, False), (candidate, True), (without_copies, True)):
        walk = _Walk(problem, tried, shut=shut)
        if not walk.step(most_us + first_beyond_us if wraps else most_us):
            return None
        if not wraps:
            return walk, 0.0
        first_us = walk.step_waits_us
        for _ in range(SETTINGS.max_steps - 1):
            decided, taken_over = walk.decided, walk.taken_over()
            if not walk.step(most_us):
                return None
            if walk.decided == decided or walk.begins_like(taken_over):
                return walk, max(0.0, first_us - walk.step_waits_us)
    raise AssertionError("steps that begin alike decide alike")


class _TakenOver(NamedTuple):
    """What one step leaves to the next.

    Attributes:
        swaps: For each gap that is under way: index, slots before the boundary at which things were
            decided, place in its anchor, and whether an earlier copy is still true.
        copied: As `_Walk.copied`.
        unfinished_us: As of `planner.plan.lanes`.
    """

    swaps: tuple[tuple[object, ...], ...]
    copied: Mapping[tuple[int, int], int]
    unfinished_us: Mapping[tuple[Direction, int], float]


class _Decided(NamedTuple):
    """One swap as decided, with its place among what is issued at the same anchor."""

    place: tuple[int, int]
    swap: TimedSwap


# Its attributes are what is under way, and most anchors read and change nearly all of them.
class _Walk:
    """A walk over the slots of one step after the other.

    Gaps go from `waiting` (begun, copy not issued) to `leaving` (issued, in order of issue) to
    `away` (given back, in order of next use); those that end before just stay. Slots count on from
    step to step.
    """

    def __init__(self, problem: Problem, candidate: Candidate, *, shut: bool) -> None:
        self.problem = problem
        self.candidate = candidate
        self.shut = shut
        self.spare = SpareBytes(problem, candidate)
        self.compute = Compute(problem)
        self.waiting: list[Move] = []
        self.leaving: deque[Move] = deque()
        self.away: list[Move] = []
        self.outlook = Outlook(
            problem, self.spare, self.compute, self.waiting, self.leaving, self.away
        )
        self.copied: dict[tuple[int, int], int] = {}
        """For each storage and version on the host, the reuse that copied it there."""
        self.wasted: set[int] = set()
        self.decided: dict[int, _Decided] = {}
        self.anchors = anchors_of(problem, candidate, self.spare)
        for anchor in self.anchors:
            for move in anchor.begins:
                if problem.wraps(move.gap):
                    # What wraps is away when the first step begins.
                    move.begin(move.gap.first_slot - problem.slot_count)
                    self.go_away(move, move.gap.first_slot - problem.slot_count)

    def step(self, most_us: float) -> bool:
        """Walks one step; `decided`, waits and `wasted` are those of the last one.

        False if it was given up: it waits longer than that, and is not walked to its end.
        """
        begin_slot, count = self.spare.begin_slot, self.problem.slot_count
        if self.shut and begin_slot >= 0:
            # Nothing is on its way over a shut boundary: slots and times count again from there.
            for anchor in self.anchors:
                for move in anchor.begins:
                    move.count_back(count)
            self.compute.start_again()
        else:
            begin_slot += count
        self.spare.next_step(begin_slot)
        self.decided = {}
        self.compute.waits = []
        self.wasted = set()
        most_us += self.compute.waited_us + SAME_US
        for t, anchor in enumerate(self.anchors, begin_slot):
            if anchor.is_busy or not self.is_quiet(t):
                self.slot(t, anchor)
                if self.compute.waited_us > most_us:
                    return False
        return True

    @property
    def step_waits_us(self) -> float:
        """What compute waited in the last step."""
        return sum(wait.wait_us for wait in self.compute.waits)

    def taken_over(self) -> _TakenOver:
        """What the next step finds."""
        end_slot = self.spare.begin_slot + self.problem.slot_count
        swaps = tuple(
            (move.i, move.out_place, move.is_clean, *move.slots_from(end_slot))
            for anchor in self.anchors
            for move in anchor.begins
            if self.problem.wraps(move.gap)
        )
        now_us = self.compute.elapsed_us[end_slot] + self.compute.waited_us
        return _TakenOver(swaps, dict(self.copied), self.compute.lanes.unfinished_us(now_us))

    def begins_like(self, before: _TakenOver) -> bool:
        """Whether the next step finds what the last one found, and so decides alike.

        Not asked where the boundary is shut: then each step has a clock of its own.
        """
        if self.shut:
            return False
        now = self.taken_over()
        alike = now.swaps == before.swaps and now.copied == before.copied
        return alike and same_unfinished(now.unfinished_us, before.unfinished_us)

    def slot(self, t: int, anchor: Anchor) -> None:
        """Decides everything at anchor t, in the order of the actions, and runs the slot."""
        compute = self.compute
        compute.arrive(t)
        self.end_unused(anchor)
        self.begin(t, anchor)
        self.make_room(t, anchor)
        self.wait_ahead(t)
        while self.away and self.away[0].end_slot == t:
            self.issue_in(self.away[0], t)
        awaited = [move for move in anchor.ends if move.in_slot is not None]
        self.swap_out_ahead(t, awaited)
        self.swap_in_ahead(t, awaited)
        after_us = compute.now_us
        for move in awaited:
            after_us = compute.wait_for(t, move.i, after_us, compute.h2d.ends_us[move.i])
            self.decided[move.i] = _Decided(move.out_place, move.timed())
        compute.waited_us += after_us - compute.arrival_us
        self.outlook.forget()

    def is_last(self, t: int) -> bool:
        return t - self.spare.begin_slot == self.problem.slot_count - 1

    def is_quiet(self, t: int) -> bool:
        """Whether there is nothing to do at an anchor where no gap begins or ends.

        Most are: so this calls nothing that it need not.
        """
        waiting, leaving, away = self.waiting, self.leaving, self.away
        if not (waiting or leaving or away):
            return True
        compute, spare = self.compute, self.spare
        if spare.pending_bytes > spare.bytes[t - spare.begin_slot]:
            return False
        now_us = compute.elapsed_us[t] + compute.waited_us
        if leaving and compute.d2h.ends_us[leaving[0].i] <= now_us + SAME_US:
            return False
        lane_us = now_us + self.problem.durations_us[t - spare.begin_slot] - SAME_US
        if (waiting and compute.d2h.free_us < lane_us) or (self.shut and self.is_last(t)):
            return False
        if not away:
            return True
        if compute.h2d.free_us >= lane_us and not self.outlook.room_is_short(t):
            return True
        if self.shut or away[0].i in self.candidate.overrides:
            # It may be held.
            return False
        if self.is_too_early(away[0], t):
            return True
        return self.none_has_room(t) and self.outlook.waits_nowhere(t)

    def none_has_room(self, t: int) -> bool:
        """Whether it is plain that no copy back can be issued, for want of room."""
        if not self.candidate.policy.overtake:
            return self.spare.is_blocked(self.away[0], t)
        for move in self.away[: SETTINGS.max_overtaken]:
            if self.is_too_early(move, t):
                break
            if not self.spare.is_blocked(move, t):
                return False
        return True

    def is_too_early(self, move: Move, t: int) -> bool:
        """Whether a copy back is not to be issued yet, on a clock without stalls."""
        elapsed_us = self.compute.elapsed_us
        return elapsed_us[t + 1] <= elapsed_us[move.end_slot] - move.lead_us + SAME_US

    def end_unused(self, anchor: Anchor) -> None:
        """Gaps that end before their bytes were given back."""
        for move in anchor.ends:
            if move.release_slot is None:
                self.spare.pending_bytes -= move.gap.size_bytes
                if move.out_slot is None:
                    self.waiting.remove(move)
                else:
                    self.leaving.remove(move)
                    self.wasted.add(move.i)

    def begin(self, t: int, anchor: Anchor) -> None:
        for move in anchor.begins:
            gap = move.gap
            move.begin(t)
            if move.i not in self.candidate.anew and self.has_copy(move):
                move.is_clean = True
                self.go_away(move, t)
            else:
                # The copy of the step before is no longer true.
                self.copied.pop((gap.storage, gap.version), None)
                self.waiting.append(move)
                self.spare.pending_bytes += gap.size_bytes
        if anchor.begins:
            self.waiting.sort(key=attrgetter("out_key"))

    def has_copy(self, move: Move) -> bool:
        """Whether the host still has these bytes from an earlier swap."""
        if not self.candidate.keeps_copies:
            return False
        if move.gap.read_only:
            return True
        copied = self.copied.get((move.gap.storage, move.gap.version))
        return copied is not None and copied < move.gap.reuse_index

    def go_away(self, move: Move, t: int) -> None:
        """A storage leaves without a copy."""
        move.out_slot = t
        move.out_place = (t % self.problem.slot_count, -1)
        self.give_back(move, t)

    def make_room(self, t: int, anchor: Anchor) -> None:
        """Gives back what has left, and waits for more where memory or an override asks for it."""
        while self.spare.missing_bytes(t) > 0:
            if not self.leaving:
                self.issue_out(self.next_out(self.spare.missing_bytes(t)), t)
            self.wait_and_release(t)
        for move, slot in anchor.released:
            if t == slot + move.shift:
                self.send_away(move, t)
        if self.shut and self.is_last(t):
            for move in sorted([*self.waiting, *self.leaving], key=attrgetter("i")):
                if self.problem.wraps(move.gap):
                    self.send_away(move, t)
        while self.leaving and self.compute.has_left(self.leaving[0]):
            self.release(t)

    def wait_ahead(self, t: int) -> None:
        """Gives back what the next copy back needs; see [Note: Waits that are spread]."""
        while self.away and (self.leaving or self.waiting):
            back = self.away[0]
            if back.end_slot == t or self.is_held(back, t) or self.is_too_early(back, t):
                return
            if self.spare.has_room(back, t) or not self.outlook.may_wait(t):
                return
            if not self.leaving:
                if self.waiting[0].override.out_slot + self.waiting[0].shift > t:
                    return
                self.issue_out(self.waiting[0], t)
            self.wait_and_release(t)

    def send_away(self, move: Move, t: int) -> None:
        if move in self.waiting:
            self.issue_out(move, t)
        while move in self.leaving:
            self.wait_and_release(t)

    def wait_and_release(self, t: int) -> None:
        compute, i = self.compute, self.leaving[0].i
        compute.now_us = compute.wait_for(t, i, compute.now_us, compute.d2h.ends_us[i])
        self.release(t)

    def next_out(self, missing_bytes: int) -> Move:
        """Which waiting gap must go now that a slot does not fit."""
        if self.candidate.policy.out_order is OutOrder.BEST_FIT:
            enough = [move for move in self.waiting if move.gap.size_bytes >= missing_bytes]
            if enough:
                return min(enough, key=lambda move: move.gap.size_bytes)
        return self.waiting[0]

    def issue_out(self, move: Move, t: int) -> None:
        gap = move.gap
        move.out_slot = t
        move.out_place = (t % self.problem.slot_count, self.compute.issued_here)
        self.compute.issue_out(move.i)
        self.copied[gap.storage, gap.version] = gap.reuse_index
        self.waiting.remove(move)
        self.leaving.append(move)

    def release(self, t: int) -> None:
        move = self.leaving.popleft()
        self.spare.pending_bytes -= move.gap.size_bytes
        self.give_back(move, t)

    def give_back(self, move: Move, t: int) -> None:
        move.release_slot = t
        # As the schedule orders them (`planner.plan.schedule.lower_swaps`), but for ties: those
        # that one anchor issues and one anchor awaits are over at the same time in any order.
        insort(self.away, move, key=lambda away: (away.end_slot, away.i))

    def swap_out_ahead(self, t: int, awaited: Sequence[Move]) -> None:
        """Issues copies to the host while the lane would fall idle before the next anchor.

        They come behind the awaited ones, but where lanes share a rate they may slow them: so it is
        asked anew each time when the next anchor comes.
        """
        yields = self.candidate.policy.yields and self.back_is_wanted(t)
        for move in tuple(self.waiting):
            if self.compute.d2h.free_us >= self.compute.next_anchor_us(t, awaited) - SAME_US:
                return
            if yields and self.may_stay_yet(move, t):
                continue
            if move.override.out_slot + move.shift <= t and self.is_worth_leaving(move, t):
                self.issue_out(move, t)

    def back_is_wanted(self, t: int) -> bool:
        """Whether something is on its way back or may be issued now."""
        if self.compute.h2d.free_us > self.compute.arrival_us + SAME_US:
            return True
        if not self.away or self.is_too_early(self.away[0], t):
            return False
        return self.spare.has_room(self.away[0], t)

    def may_stay_yet(self, move: Move, t: int) -> bool:
        """Whether a copy to the host that yields may start later, on a clock without stalls."""
        elapsed_us = self.compute.elapsed_us
        begin_us = elapsed_us[move.gap.first_slot + move.shift]
        return elapsed_us[t + 1] <= begin_us + move.out_after_us

    def is_worth_leaving(self, move: Move, t: int) -> bool:
        """Whether a copy issued now ends before the gap's last slot, or may be waited for."""
        compute = self.compute
        end_us = max(compute.d2h.free_us, compute.arrival_us) + self.problem.d2h_us[move.i]
        if end_us <= compute.elapsed_us[move.end_slot - 1] + compute.waited_us + SAME_US:
            return True
        return bool(self.spare.over(t, move.end_slot).min() < self.spare.pending_bytes)

    def swap_in_ahead(self, t: int, awaited: Sequence[Move]) -> None:
        """Issues copies back while the lane would fall idle before the next anchor, likewise."""
        next_slot = (t + 1 - self.spare.begin_slot) % self.problem.slot_count
        begins = self.anchors[next_slot].begins
        for move in self.away[: SETTINGS.max_overtaken]:
            if self.outlook.back_is_busy(t, awaited, begins):
                return
            if self.is_held(move, t):
                continue
            if self.is_too_early(move, t):
                return
            if self.spare.has_room(move, t):
                self.issue_in(move, t)
            elif not self.candidate.policy.overtake:
                return

    def is_held(self, move: Move, t: int) -> bool:
        """Whether a gap must not come back yet: as the candidate says, or over a shut boundary.

        Taking again what was given back at this very anchor would free nothing.
        """
        next_begin_slot = self.spare.begin_slot + self.problem.slot_count
        is_shut_out = self.shut and move.end_slot >= next_begin_slot > t
        return is_shut_out or move.release_slot == t or move.override.in_slot + move.shift > t

    def issue_in(self, move: Move, t: int) -> None:
        self.away.remove(move)
        self.spare.over(t, move.end_slot)[:] -= move.gap.size_bytes
        self.compute.issue_in(move.i)
        move.in_slot = t

    def swaps(self) -> tuple[TimedSwap, ...]:
        """The swaps of the last step walked, in order of issue."""
        return tuple(decided.swap for decided in sorted(self.decided.values()))
