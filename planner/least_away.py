"""The fewest bytes that must be away in each slot, knowing that storages go as a whole."""

from collections.abc import Sequence
from math import gcd

from planner.problem import Problem

STEPS = 100_000
"""Sizes are counted in at most this many steps; coarser sizes lose a little of the result."""
MAX_OPEN = 200
"""With more gaps open at once their sums are so dense that nothing is gained."""


def least_away_bytes(problem: Problem, slots: Sequence[int]) -> tuple[int, ...]:
    """Returns, for each of some slots, the least sum of sizes of its open gaps that makes it fit.

    At most what whole storages must give back, never more: a lower bound for every plan. Where the
    open gaps cannot make a slot fit, the bytes that are over.
    """
    open_sizes: list[list[int]] = [[] for _ in range(problem.slot_count)]
    for gap in problem.whole_gaps:
        for t in problem.slots_of(gap):
            open_sizes[t].append(gap.size_bytes)
    least = []
    for t in slots:
        over_bytes = max(0, problem.resident_bytes[t] - problem.budget_bytes)
        least.append(least_sum_bytes(open_sizes[t], over_bytes))
    return tuple(least)


def least_sum_bytes(sizes_bytes: Sequence[int], at_least_bytes: int) -> int:
    """Returns the least subset sum that reaches a number of bytes, or a little less than it.

    Sums are the bits of one integer. If there are too many, sizes are rounded up to steps: then
    every true sum is at most one step per size below its rounded one.
    """
    if at_least_bytes == 0 or len(sizes_bytes) > MAX_OPEN or sum(sizes_bytes) < at_least_bytes:
        return at_least_bytes
    step = gcd(*sizes_bytes)
    slack_steps = 0
    if sum(sizes_bytes) // step > STEPS:
        step = -(-sum(sizes_bytes) // STEPS)
        slack_steps = len(sizes_bytes)
    sums = 1
    for size_bytes in sizes_bytes:
        sums |= sums << -(-size_bytes // step)
    wanted = -(-at_least_bytes // step) if slack_steps == 0 else at_least_bytes // step
    reached = sums >> wanted
    least = wanted + (reached & -reached).bit_length() - 1
    return max(at_least_bytes, (least - slack_steps) * step)
