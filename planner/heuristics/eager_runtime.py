"""A runtime that gives bytes back once their copy is over, and fetches when there is room.

Many heuristics say which storages leave and when copies should begin, and leave the rest to their
runtime: bytes are free when the copy has ended; an allocation that fails waits for copies under
way; a fetch that finds no room waits for room. This walk is that runtime, on the simulator's own
clock, and writes down the anchors at which things come to happen.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from planner.heuristics.eviction import FreeBytes
from planner.heuristics.heuristic import in_order
from planner.plan.lanes import Direction, lane_clock, link_load
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap


class Intent(NamedTuple):
    """What a heuristic wants for one gap.

    Slots count as the gap's do, on past the end of the step.

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


MAX_STEPS = 6
"""Steps that come out otherwise than the one before; the last one stands for them."""


def walk(problem: Problem, intents: Iterable[Intent]) -> tuple[TimedSwap, ...]:
    """Returns the swaps that come of intents, once steps repeat.

    A copy to the host that is not over, nor waited for, by the next use was for nothing: such gaps
    are taken out, and the step is walked again without them. Where not even all intents together
    make a slot fit, it stays over the budget.
    """
    wanted = {intent.gap: intent for intent in intents}
    while True:
        walked = _Walk(problem, wanted)
        wraps = any(problem.wraps(problem.gaps[i]) for i in wanted)
        swaps = walked.step(0)
        for n in range(1, MAX_STEPS + 1 if wraps else 0):
            before, swaps = swaps, walked.step(n * problem.slot_count)
            if walked.wasted or swaps == before:
                break
        if not walked.wasted:
            return in_order(swaps)
        wanted = {i: intent for i, intent in wanted.items() if i not in walked.wasted}


@dataclass(eq=False)
class _Move:
    """A gap's swap under way. Its own slots count from the walk's first one."""

    intent: Intent
    gap: Gap
    shift: int
    """Brings the gap's slots, and the intent's, to that count."""
    out_slot: int | None = None
    release_slot: int | None = None
    in_slot: int | None = None

    @property
    def next_use_slot(self) -> int:
        return self.gap.next_use_slot + self.shift

    @property
    def is_away(self) -> bool:
        return self.release_slot is not None and self.in_slot is None

    @property
    def return_order(self) -> tuple[int, int]:
        return (self.next_use_slot, self.intent.gap)

    def timed(self, await_slot: int) -> TimedSwap:
        slots = (self.out_slot, self.release_slot, self.in_slot, await_slot)
        out, release, back, awaited = (slot - self.shift for slot in slots if slot is not None)
        return TimedSwap(self.intent.gap, self.gap.storage, out, release, back, awaited)


class _Compute:
    """Compute's own time, and the copies that it waits for."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.clock = lane_clock(problem.link)
        self.begin_us = -problem.compute_us
        self.arrival_us = self.now_us = self.waited_us = 0.0

    def arrive(self, at: int) -> None:
        self.arrival_us = self.begin_us + self.problem.elapsed_us[at] + self.waited_us
        self.now_us = self.arrival_us

    def go_on(self) -> None:
        self.waited_us += self.now_us - self.arrival_us

    def issue(self, direction: Direction, gap: Gap) -> None:
        load = link_load(self.problem.link, gap.size_bytes)
        self.clock.issue(direction, gap.storage, load, self.now_us)

    def has_ended(self, direction: Direction, gap: Gap) -> bool:
        return self.clock.end_us(direction, gap.storage, self.now_us) <= self.now_us

    def wait_for(self, direction: Direction, gap: Gap) -> None:
        self.now_us = max(self.now_us, self.clock.end_us(direction, gap.storage, self.now_us))


class _Walk:
    """A walk over the slots of step after step; slots count on from the first one.

    Gaps go from `waiting` (begun, copy not issued) to `leaving` (issued, in order of issue), and
    are away then; those that end before just stay.
    """

    def __init__(self, problem: Problem, wanted: dict[int, Intent]) -> None:
        self.problem = problem
        self.compute = _Compute(problem)
        # With every wanted gap away from end to end; `pending_bytes` are those not given back yet.
        self.free = FreeBytes(problem, {i: problem.gaps[i].first_slot for i in wanted})
        self.pending_bytes = 0
        self.begins: list[list[Intent]] = [[] for _ in range(problem.slot_count)]
        self.ends: list[list[int]] = [[] for _ in range(problem.slot_count)]
        for i, intent in wanted.items():
            self.begins[problem.gaps[i].first_slot].append(intent)
            self.ends[problem.gaps[i].next_use_slot % problem.slot_count].append(i)
        self.moves: dict[int, _Move] = {}
        self.waiting: list[_Move] = []
        self.leaving: list[_Move] = []
        self.wanted_from: dict[int, list[_Move]] = defaultdict(list)
        self.wanted_back: list[_Move] = []
        self.wasted: set[int] = set()

    def step(self, begin_slot: int) -> list[TimedSwap]:
        """Walks one step and returns the swaps that end in it."""
        self.compute.begin_us += self.problem.compute_us
        slots = range(begin_slot, begin_slot + self.problem.slot_count)
        return [swap for t in slots for swap in self.slot(t, t - begin_slot)]

    def slot(self, t: int, at: int) -> list[TimedSwap]:
        """Plays the anchor of a slot in the order of the actions, and runs the slot."""
        if not (self.begins[at] or self.ends[at] or self.moves):
            return []
        self.compute.arrive(at)
        self.end_unused(at)
        self.begin(t, at)
        self.swap_out(t, at)
        self.release_what_must(t, at)
        self.release_what_has_left(t)
        self.swap_in(t, at)
        swaps = self.await_due(t, at)
        self.compute.go_on()
        return swaps

    def ending(self, at: int) -> list[_Move]:
        return [self.moves[i] for i in self.ends[at] if i in self.moves]

    def end_unused(self, at: int) -> None:
        for move in self.ending(at):
            if move.release_slot is None:
                if move.out_slot is None:
                    self.waiting.remove(move)
                else:
                    self.wasted.add(move.intent.gap)
                    self.leaving.remove(move)
                self.pending_bytes -= move.gap.size_bytes
                del self.moves[move.intent.gap]

    def begin(self, t: int, at: int) -> None:
        for intent in self.begins[at]:
            gap = self.problem.gaps[intent.gap]
            move = self.moves[intent.gap] = _Move(intent, gap, t - gap.first_slot)
            self.waiting.append(move)
            self.pending_bytes += gap.size_bytes

    def swap_out(self, t: int, at: int) -> None:
        for move in tuple(self.waiting):
            if move.intent.swap_out_slot + move.shift <= t:
                self.issue_out(move, t)
        missing_bytes = self.pending_bytes - self.free.by_slot[at]
        if missing_bytes > 0:
            missing_bytes -= sum(move.gap.size_bytes for move in self.leaving)
            for move in tuple(self.waiting):
                if missing_bytes > 0:
                    self.issue_out(move, t)
                    missing_bytes -= move.gap.size_bytes

    def issue_out(self, move: _Move, t: int) -> None:
        self.compute.issue(Direction.D2H, move.gap)
        move.out_slot = t
        self.waiting.remove(move)
        self.leaving.append(move)

    def release_what_must(self, t: int, at: int) -> None:
        while self.leaving and self.pending_bytes > self.free.by_slot[at]:
            self.wait_and_release(self.leaving[0], t)
        for move in tuple(self.leaving):
            if move.intent.is_sync:
                self.wait_and_release(move, t)

    def release_what_has_left(self, t: int) -> None:
        while self.leaving and self.compute.has_ended(Direction.D2H, self.leaving[0].gap):
            self.wait_and_release(self.leaving[0], t)

    def wait_and_release(self, move: _Move, t: int) -> None:
        self.compute.wait_for(Direction.D2H, move.gap)
        self.leaving.remove(move)
        self.pending_bytes -= move.gap.size_bytes
        move.release_slot = t
        wanted_slot = max(move.intent.swap_in_slot + move.shift, t + 1)
        if wanted_slot < move.next_use_slot:
            self.wanted_from[wanted_slot].append(move)

    def swap_in(self, t: int, at: int) -> None:
        """Fetches what is used here, and of what is wanted back, next use first, what fits."""
        wanted = [*self.wanted_back, *self.wanted_from.pop(t, ())]
        due = [move for move in self.ending(at) if move.is_away]
        roomy = [move for move in wanted if move not in due and self.has_room(move, t, at)]
        for move in sorted(due + roomy, key=lambda move: move.return_order):
            if move in due or self.has_room(move, t, at):
                move.in_slot = t
                self.free.give(-move.gap.size_bytes, at, at + move.next_use_slot - t)
                self.compute.issue(Direction.H2D, move.gap)
        self.wanted_back = [move for move in wanted if move.is_away]

    def has_room(self, move: _Move, t: int, at: int) -> bool:
        size_bytes = move.gap.size_bytes
        if self.free.by_slot[at] - self.pending_bytes < size_bytes:
            return False
        return self.free.has_room(size_bytes, at, at + move.next_use_slot - t)

    def await_due(self, t: int, at: int) -> list[TimedSwap]:
        moves = self.ending(at)
        for move in moves:
            assert move.in_slot is not None, "what is used is fetched"
            self.compute.wait_for(Direction.H2D, move.gap)
            in_at = move.in_slot % self.problem.slot_count
            self.free.give(move.gap.size_bytes, in_at, in_at + t - move.in_slot)
            del self.moves[move.intent.gap]
        return [move.timed(t) for move in moves]
