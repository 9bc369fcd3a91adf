"""DeepSpeed DeepCompile's `offload_activation`: all of it out, then the largest brought back.

As in DeepSpeed's code, which was read. Every activation of 5 MiB and more is offloaded; the peak
that leaves is the floor. Largest first, activations are brought back while floor and bytes stay
within the budget less a margin of 10%. Compute waits for each copy out at once. A reload is hoisted
until the time of the ops above it covers its copy, or until the budget would break.
"""

from collections.abc import Iterator

from planner.heuristics.eviction import Room
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled

MIN_BYTES = 5 * 2**20
BUDGET_SHARE = 0.9


def _plan(case: Case) -> Ruled:
    return ruled(_trips(case, _offloaded(case)))


DEEPCOMPILE = Baseline(
    name="DeepSpeed DeepCompile",
    source="deepspeedai/DeepSpeed, offload_activation",
    known_from=KnownFrom.CODE,
    simplified="activations alone, without offload_adam_states",
    rule=_plan,
)


def _offloaded(case: Case) -> tuple[int, ...]:
    eligible = [i for i in case.activations() if case.gaps[i].size_bytes >= MIN_BYTES]
    held_bytes = max(case.problem.floor_bytes(eligible))
    budget_bytes = BUDGET_SHARE * case.problem.budget_bytes
    kept = set()
    for i in case.largest_first(eligible, lambda i: case.gaps[i].size_bytes):
        if held_bytes + case.gaps[i].size_bytes <= budget_bytes:
            held_bytes += case.gaps[i].size_bytes
            kept.add(i)
    return tuple(i for i in eligible if i not in kept)


def _trips(case: Case, offloaded: tuple[int, ...]) -> Iterator[RuledSwap]:
    problem = case.problem
    room = Room(problem, int(BUDGET_SHARE * problem.budget_bytes))
    for i in offloaded:
        gap = case.gaps[i]
        room.give(gap.size_bytes, gap.first_slot, gap.next_use_slot)
    for i in sorted(offloaded, key=lambda i: case.gaps[i].next_use_slot):
        gap = case.gaps[i]
        covered_us = problem.elapsed_us[gap.next_use_slot] - problem.h2d_us[i]
        slot = room.first_with_room(gap, gap.first_slot + 1)
        while slot < gap.next_use_slot and problem.elapsed_us[slot + 1] <= covered_us:
            slot += 1
        room.take(gap.size_bytes, slot, gap.next_use_slot)
        yield RuledSwap(i, gap.first_slot, gap.first_slot, slot, gap.next_use_slot)
