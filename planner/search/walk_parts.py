"""What the list scheduler's walk keeps: swaps under way, bytes to spare, the clock, anchors."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.plan.lanes import SAME_US, Direction, lanes_of
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap
from planner.search.candidate import NO_OVERRIDE, Candidate, OutOrder, Override, Wait


@dataclass(eq=False, slots=True)
class Move:
    """A chosen gap's swap under way, of the step the walk is in. Slots count as the walk does.

    Attributes:
        i: Index of the gap in the problem.
        out_key: Its place among copies to the host that wait.
        lead_us: How long before its deadline the copy back may start.
        out_after_us: How long after its gap begins the copy to the host may start, if it yields.
        override: From when on its copies may be issued, in the gap's own slots.
        shift: Brings the gap's own slots to the walk's count.
        is_clean: Whether an earlier copy is still true.
        out_slot: Where its copy to the host was issued, None before; likewise the slots below.
        out_place: That slot in the step, and the place among what is issued there.
        blocked_until: Up to there a slot has no room for it.
    """

    i: int
    gap: Gap
    out_key: tuple[int, ...]
    lead_us: float
    out_after_us: float
    override: Override
    shift: int = 0
    end_slot: int = 0
    is_clean: bool = False
    out_slot: int | None = None
    out_place: tuple[int, int] = (0, 0)
    release_slot: int | None = None
    in_slot: int | None = None
    blocked_until: int = -1

    def begin(self, first_slot: int) -> None:
        """Starts the gap anew."""
        self.shift = first_slot - self.gap.first_slot
        self.end_slot = self.gap.next_use_slot + self.shift
        self.is_clean = False
        self.out_slot = self.release_slot = self.in_slot = None
        self.blocked_until = -1

    def count_back(self, slots: int) -> None:
        """Brings its slots to a count that begins so many slots later."""
        self.shift -= slots
        self.end_slot -= slots
        self.blocked_until -= slots
        for name in ("out_slot", "release_slot", "in_slot"):
            slot = getattr(self, name)
            if slot is not None:
                setattr(self, name, slot - slots)

    def slots_from(self, slot: int) -> tuple[int | None, ...]:
        """Where it was issued, released and issued back, counted from a slot; None if not yet."""
        decided = (self.out_slot, self.release_slot, self.in_slot)
        return tuple(None if done is None else done - slot for done in decided)

    def timed(self) -> TimedSwap:
        """The swap as it was decided, in the gap's own slots."""
        slots = (self.out_slot, self.release_slot, self.in_slot)
        out_slot, release_slot, in_slot = (slot - self.shift for slot in slots if slot is not None)
        return TimedSwap(
            gap=self.i,
            storage=self.gap.storage,
            swap_out_slot=out_slot,
            release_slot=release_slot,
            swap_in_slot=in_slot,
            await_slot=self.gap.next_use_slot,
            clean=self.is_clean,
        )


def _moves_of(problem: Problem, candidate: Candidate, spare_bytes: NDArray[np.int64]) -> list[Move]:
    """Returns what is to be moved, by index of the gap.

    `spare_bytes` is what each slot has to spare with every chosen gap away from end to end.
    """
    leads_us = _leads_us(problem, candidate)
    yields = candidate.policy.yields
    after_us = _outs_after_us(problem, candidate, spare_bytes) if yields else {}
    moves = []
    for i in sorted(candidate.chosen):
        override = candidate.overrides.get(i, NO_OVERRIDE)
        out_key = (override.rank, *_out_key(problem, candidate.policy.out_order, i), i)
        out_after_us = after_us.get(i, 0.0)
        moves.append(Move(i, problem.gaps[i], out_key, leads_us[i], out_after_us, override))
    return moves


def _out_key(problem: Problem, order: OutOrder, i: int) -> tuple[int, int]:
    gap = problem.gaps[i]
    if order in (OutOrder.FIRST_BEGUN, OutOrder.BEST_FIT):
        return (gap.first_slot, -gap.next_use_slot)
    if order is OutOrder.LAST_USED:
        return (-gap.next_use_slot, gap.first_slot)
    if order is OutOrder.FIRST_NEEDED:
        return (problem.next_over_slot[gap.first_slot], -gap.next_use_slot)
    return (-gap.size_bytes, gap.first_slot)


def _leads_us(problem: Problem, candidate: Candidate) -> dict[int, float]:
    """How long before its deadline each copy back may start (see `Policy.lead`).

    The latest starts come from a backward pass over the lane, on a clock without stalls: copies in
    order of next use, each ending by its own deadline and before the next one starts. Where gaps
    wrap, the pass goes over two steps, since copies for the next one may already crowd the lane.
    """
    count = problem.slot_count
    steps = 2 if any(problem.wraps(problem.gaps[i]) for i in candidate.chosen) else 1
    deadlines = [
        (problem.gaps[i].next_use_slot % count + step * count, i)
        for i in candidate.chosen
        for step in range(steps)
    ]
    leads_us: dict[int, float] = {}
    backward = sorted(deadlines, reverse=True)
    dues_us = [problem.elapsed_us[slot] for slot, _ in backward]
    starts_us = _latest_starts_us(dues_us, (problem.h2d_us[i] for _, i in backward))
    for (_, i), due_us, latest_us in zip(backward, dues_us, starts_us, strict=True):
        leads_us[i] = candidate.policy.lead * (due_us - latest_us)
    return leads_us


def _latest_starts_us(dues_us: Iterable[float], copies_us: Iterable[float]) -> Iterator[float]:
    """Yields, the last copy first, when each starts at the latest: it ends when it is due, and
    before the next one starts."""
    latest_us = math.inf
    for due_us, copy_us in zip(dues_us, copies_us, strict=True):
        latest_us = min(latest_us, due_us) - copy_us
        yield latest_us


def _outs_after_us(
    problem: Problem, candidate: Candidate, spare_bytes: NDArray[np.int64]
) -> dict[int, float]:
    """How long after its gap begins each copy to the host may start (see `Policy.out_lead`).

    A copy is due in the first slot that has no room for its bytes and for all that begin after it;
    the latest starts come from a backward pass over two steps, as for copies back.
    """
    count, gaps = problem.slot_count, problem.gaps
    begun = sorted((gaps[i].first_slot + n * count, i) for i in candidate.chosen for n in (0, 1))
    sizes_bytes = np.array([gaps[i].size_bytes for _, i in begun], dtype=np.int64)
    begun_bytes = np.cumsum(np.bincount([slot for slot, _ in begun], sizes_bytes, 2 * count))
    gone_bytes = np.maximum.accumulate(begun_bytes - np.concatenate([spare_bytes, spare_bytes]))
    due_slots = np.searchsorted(gone_bytes, np.cumsum(sizes_bytes) - sizes_bytes, side="right")
    after_us: dict[int, float] = {}
    backward = begun[::-1]
    dues_us = [problem.elapsed_us[slot] for slot in due_slots[::-1].tolist()]
    starts_us = _latest_starts_us(dues_us, (problem.d2h_us[i] for _, i in backward))
    for (slot, i), due_us, latest_us in zip(backward, dues_us, starts_us, strict=True):
        start_us = due_us - candidate.policy.out_lead * (due_us - latest_us)
        # Of the two steps the first one is kept: the other looks no further than its own end.
        after_us[i] = start_us - problem.elapsed_us[slot]
    return after_us


class SpareBytes:
    """Budget minus what each slot of this step and the next holds.

    That is with every chosen gap away from end to end; copies back issued early are taken off as
    they are decided. `pending_bytes` are those of gaps that have begun and are not given back.
    """

    def __init__(self, problem: Problem, candidate: Candidate) -> None:
        self.of_step = problem.budget_bytes - problem.floor_bytes(candidate.chosen)
        self.bytes = np.concatenate([self.of_step, self.of_step])
        self.begin_slot = -problem.slot_count
        self.pending_bytes = 0

    def next_step(self, begin_slot: int) -> None:
        """A step begins; slots count on from the one before, or again from its begin."""
        self.bytes = np.concatenate([self.bytes[len(self.of_step) :], self.of_step])
        self.begin_slot = begin_slot

    def missing_bytes(self, t: int) -> int:
        """How much a slot is over the budget by what is pending; not above 0 if it fits."""
        return self.pending_bytes - int(self.bytes[t - self.begin_slot])

    def over(self, t: int, end_slot: int) -> NDArray[np.int64]:
        """What some slots have to spare, to be changed in place."""
        return self.bytes[t - self.begin_slot : end_slot - self.begin_slot]

    def has_room(self, move: Move, t: int) -> bool:
        """Whether a gap's bytes may be taken again from a slot on."""
        if self.is_blocked(move, t):
            return False
        short = np.flatnonzero(self.over(t, move.end_slot) < move.gap.size_bytes)
        if short.size:
            # Bytes of a slot are only ever taken: until then there is no need to look again.
            move.blocked_until = t + int(short[-1])
        return not short.size

    def is_blocked(self, move: Move, t: int) -> bool:
        """Whether they may not, as far as that is known without a look at what lies ahead."""
        return move.blocked_until >= t or -self.missing_bytes(t) < move.gap.size_bytes


class Compute:
    """Compute's clock, the lanes beside it, and the waits of the step it is in."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.elapsed_us = problem.repeated_us
        self.waits: list[Wait] = []
        self.arrival_us = self.now_us = self.waited_us = 0.0
        self.issued_here = 0
        self.start_again()

    def start_again(self) -> None:
        """Nothing is under way and nothing has been waited for."""
        self.lanes = lanes_of(self.problem.link)
        self.d2h, self.h2d = self.lanes.d2h, self.lanes.h2d
        self.waited_us = 0.0

    def arrive(self, t: int) -> None:
        """Comes to a slot's anchor."""
        self.arrival_us = self.now_us = self.elapsed_us[t] + self.waited_us
        self.issued_here = 0
        self.lanes.arrive(self.arrival_us)

    def issue_out(self, i: int) -> None:
        """Queues a gap's copy to the host, as compute arrives."""
        self._issue(Direction.D2H, i, self.arrival_us)
        self.issued_here += 1

    def issue_in(self, i: int) -> None:
        """Queues a gap's copy back, after what has been waited for."""
        self._issue(Direction.H2D, i, self.now_us)

    def _issue(self, direction: Direction, i: int, at_us: float) -> None:
        self.lanes.issue(direction, i, self.problem.loads[direction][i], at_us)
        self.lanes.foresee()

    def has_left(self, move: Move) -> bool:
        """Whether a copy to the host is over."""
        return self.d2h.ends_us[move.i] <= self.now_us + SAME_US

    def wait_for(self, t: int, i: int, now_us: float, end_us: float) -> float:
        """Waits for a copy; returns the time after it."""
        if end_us <= now_us + SAME_US:
            return now_us
        self.waits.append(Wait(t % self.problem.slot_count, i, end_us - now_us))
        return end_us

    def next_anchor_us(self, t: int, awaited: Sequence[Move]) -> float:
        """When the next anchor comes if compute waits for these copies back."""
        after_us = self.now_us
        for move in awaited:
            after_us = max(after_us, self.h2d.ends_us[move.i])
        return after_us + self.problem.durations_us[t % self.problem.slot_count]


@dataclass(slots=True)
class Anchor:
    """The gaps that have a part in one anchor of the step."""

    begins: list[Move] = field(default_factory=list)
    ends: list[Move] = field(default_factory=list)
    released: list[tuple[Move, int]] = field(default_factory=list)
    """Those that the candidate has given back there, with that one of their own slots."""
    is_busy: bool = True


QUIET = Anchor(is_busy=False)
"""All those in which no gap has a part: never changed."""


def anchors_of(problem: Problem, candidate: Candidate, spare: SpareBytes) -> list[Anchor]:
    """The anchors of a step, by slot."""
    count = problem.slot_count
    busy: dict[int, Anchor] = defaultdict(Anchor)
    for move in _moves_of(problem, candidate, spare.of_step):
        busy[move.gap.first_slot].begins.append(move)
        busy[move.gap.next_use_slot % count].ends.append(move)
        if move.i in candidate.overrides:
            slot = move.override.release_slot
            busy[slot % count].released.append((move, slot))
    return [busy.get(t, QUIET) for t in range(count)]
