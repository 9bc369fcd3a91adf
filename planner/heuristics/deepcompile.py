"""DeepSpeed DeepCompile's `offload_activation`: all of it out, then the largest brought back.

As in DeepSpeed's code, which was read. Every activation of 5 MiB and more is offloaded; the peak
that leaves is the floor. Largest first, activations are brought back while floor and bytes stay
within the budget less a margin of 10%. Compute waits for each copy out at once. A reload is hoisted
until the time of the ops above it covers its copy, or until the budget would break.
"""

from planner.heuristics.eviction import FreeBytes
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task

MIN_BYTES = 5 * 2**20
BUDGET_SHARE = 0.9


def _swaps(task: Task) -> Swaps:
    problem = task.problem
    offloaded = {i: task.gaps[i].first_slot for i in _offloaded(task)}
    free = FreeBytes(problem, offloaded, int(BUDGET_SHARE * problem.budget_bytes))
    for i in sorted(offloaded, key=lambda i: task.gaps[i].next_use_slot):
        gap = task.gaps[i]
        covered_us = problem.elapsed_us[gap.next_use_slot] - problem.h2d_us[i]
        slot = free.first_with_room(gap.size_bytes, gap.first_slot + 1, gap.next_use_slot)
        while slot < gap.next_use_slot and problem.elapsed_us[slot + 1] <= covered_us:
            slot += 1
        free.give(-gap.size_bytes, slot, gap.next_use_slot)
        yield task.swap(i, gap.first_slot, slot)


def _offloaded(task: Task) -> tuple[int, ...]:
    eligible = [i for i in task.activations() if task.gaps[i].size_bytes >= MIN_BYTES]
    held_bytes = max(task.problem.floor_bytes(eligible))
    kept = set()
    for i in task.largest_first(eligible):
        if held_bytes + task.gaps[i].size_bytes <= BUDGET_SHARE * task.problem.budget_bytes:
            held_bytes += task.gaps[i].size_bytes
            kept.add(i)
    return tuple(i for i in eligible if i not in kept)


DEEPCOMPILE = Heuristic(
    name="DeepSpeed DeepCompile",
    source="deepspeedai/DeepSpeed, offload_activation",
    known_from=KnownFrom.CODE,
    simplified="activations alone, without offload_adam_states",
    rule=_swaps,
)
