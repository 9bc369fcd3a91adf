"""A runtime that gives bytes back once their copy is over, and fetches when there is room.

Many heuristics say which storages leave and when copies back should begin, and leave the rest to
their runtime: bytes are free when the copy has ended; an allocation that fails waits for copies
under way; a fetch that finds no room waits for room. This walk is that runtime, on the simulator's
own clock, and writes down the anchors at which things come to happen.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from planner.heuristics.eviction import FreeBytes, begins_and_ends
from planner.heuristics.heuristic import in_order
from planner.plan.lanes import Direction, lanes_of, link_load
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap

MAX_STEPS = 6
"""Steps that come out otherwise than the one before; the last one stands for them."""


def walk(
    problem: Problem, fetch_slots: Mapping[int, int], *, waits_out: bool = False
) -> tuple[TimedSwap, ...]:
    """Returns the swaps that come of moving gaps, each out where it begins, once steps repeat.

    A copy to the host that is not over, nor waited for, by the next use was for nothing: such gaps
    are taken out, and the step is walked again without them. Where not even all gaps together make
    a slot fit, it stays over the budget.

    Args:
        fetch_slots: From where on each gap's copy back is issued as soon as there is room until the
            next use; at the next use in any case. Slots count as the gap's do.
        waits_out: Whether compute waits for copies to the host where they are issued.
    """
    wanted = dict(fetch_slots)
    while True:
        walked = _Walk(problem, wanted, waits_out)
        wraps = any(problem.wraps(problem.gaps[i]) for i in wanted)
        swaps = walked.step(0)
        for n in range(1, MAX_STEPS + 1 if wraps else 0):
            before, swaps = swaps, walked.step(n * problem.slot_count)
            if walked.wasted or swaps == before:
                break
        if not walked.wasted:
            return in_order(swaps)
        wanted = {i: slot for i, slot in wanted.items() if i not in walked.wasted}


@dataclass(eq=False)
class _Move:
    """A gap's swap under way. Slots count from the walk's first one."""

    i: int
    gap: Gap
    out_slot: int
    release_slot: int | None = None
    in_slot: int | None = None

    @property
    def shift(self) -> int:
        """Brings the gap's own slots to the walk's count."""
        return self.out_slot - self.gap.first_slot

    @property
    def next_use_slot(self) -> int:
        return self.gap.next_use_slot + self.shift

    @property
    def is_away(self) -> bool:
        return self.release_slot is not None and self.in_slot is None

    def timed(self, await_slot: int) -> TimedSwap:
        slots = (self.out_slot, self.release_slot, self.in_slot, await_slot)
        out, release, back, awaited = (slot - self.shift for slot in slots if slot is not None)
        return TimedSwap(self.i, self.gap.storage, out, release, back, awaited)


class _Compute:
    """Compute's own time, and the copies that it waits for."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.lanes = lanes_of(problem.link)
        self.begin_us = -problem.compute_us
        self.arrival_us = self.now_us = self.waited_us = 0.0

    def arrive(self, at: int) -> None:
        self.arrival_us = self.begin_us + self.problem.elapsed_us[at] + self.waited_us
        self.now_us = self.arrival_us

    def go_on(self) -> None:
        self.waited_us += self.now_us - self.arrival_us

    def issue(self, direction: Direction, gap: Gap) -> None:
        load = link_load(self.problem.link, direction, gap.size_bytes)
        self.lanes.issue(direction, gap.storage, load, self.now_us)

    def has_ended(self, direction: Direction, gap: Gap) -> bool:
        return self.lanes.has_ended(direction, gap.storage, self.now_us)

    def wait_for(self, direction: Direction, gap: Gap) -> None:
        self.now_us = max(self.now_us, self.lanes.end_us(direction, gap.storage, self.now_us))


class _Walk:
    """A walk over the slots of step after step; slots count on from the first one."""

    def __init__(self, problem: Problem, wanted: Mapping[int, int], waits_out: bool) -> None:
        self.problem, self.wanted, self.waits_out = problem, wanted, waits_out
        self.compute = _Compute(problem)
        # With every wanted gap away from end to end.
        self.free = FreeBytes(problem, {i: problem.gaps[i].first_slot for i in wanted})
        self.begins, self.ends = begins_and_ends(problem, wanted)
        self.moves: dict[int, _Move] = {}
        self.leaving: list[_Move] = []
        self.due_from: dict[int, list[_Move]] = defaultdict(list)
        self.due: list[_Move] = []
        self.wasted: set[int] = set()

    def step(self, begin_slot: int) -> list[TimedSwap]:
        """Walks one step and returns the swaps that end in it."""
        self.compute.begin_us += self.problem.compute_us
        slots = range(begin_slot, begin_slot + self.problem.slot_count)
        return [swap for t in slots for swap in self.slot(t, t - begin_slot)]

    def slot(self, t: int, at: int) -> list[TimedSwap]:
        """Plays the anchor of a slot in the order of the actions, and runs the slot."""
        if not (self.begins[at] or self.moves):
            return []
        self.compute.arrive(at)
        self.end_unused(at)
        self.swap_out(t, at)
        self.release_what_must_and_may(t, at)
        self.swap_in(t, at)
        swaps = self.await_used(t, at)
        self.compute.go_on()
        return swaps

    @property
    def pending_bytes(self) -> int:
        """What has not been given back yet, though `free` counts it as away."""
        return sum(move.gap.size_bytes for move in self.leaving)

    def used(self, at: int) -> list[_Move]:
        return [self.moves[i] for i in self.ends[at] if i in self.moves]

    def end_unused(self, at: int) -> None:
        for move in self.used(at):
            if move in self.leaving:
                self.wasted.add(move.i)
                self.leaving.remove(move)
                del self.moves[move.i]

    def swap_out(self, t: int, at: int) -> None:
        for i in self.begins[at]:
            move = self.moves[i] = _Move(i, self.problem.gaps[i], t)
            self.compute.issue(Direction.D2H, move.gap)
            self.leaving.append(move)

    def release_what_must_and_may(self, t: int, at: int) -> None:
        while self.leaving and (
            self.waits_out
            or self.pending_bytes > self.free.by_slot[at]
            or self.compute.has_ended(Direction.D2H, self.leaving[0].gap)
        ):
            move = self.leaving.pop(0)
            self.compute.wait_for(Direction.D2H, move.gap)
            move.release_slot = t
            due_slot = max(self.wanted[move.i] + move.shift, t + 1)
            if due_slot < move.next_use_slot:
                self.due_from[due_slot].append(move)

    def swap_in(self, t: int, at: int) -> None:
        """Fetches what is used here, and of what is due, next use first, what fits."""
        due = [*self.due, *self.due_from.pop(t, ())]
        used = [move for move in self.used(at) if move.is_away]
        roomy = [move for move in due if move not in used and self.has_room(move, t, at)]
        for move in sorted(used + roomy, key=lambda move: (move.next_use_slot, move.i)):
            if move in used or self.has_room(move, t, at):
                move.in_slot = t
                self.free.give(-move.gap.size_bytes, at, at + move.next_use_slot - t)
                self.compute.issue(Direction.H2D, move.gap)
        self.due = [move for move in due if move.is_away]

    def has_room(self, move: _Move, t: int, at: int) -> bool:
        size_bytes = move.gap.size_bytes
        if self.free.by_slot[at] - self.pending_bytes < size_bytes:
            return False
        return self.free.has_room(size_bytes, at, at + move.next_use_slot - t)

    def await_used(self, t: int, at: int) -> list[TimedSwap]:
        moves = self.used(at)
        for move in moves:
            assert move.in_slot is not None, "what is used is fetched"
            self.compute.wait_for(Direction.H2D, move.gap)
            in_at = move.in_slot % self.problem.slot_count
            self.free.give(move.gap.size_bytes, in_at, in_at + t - move.in_slot)
            del self.moves[move.i]
        return [move.timed(t) for move in moves]
