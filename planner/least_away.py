"""The fewest bytes that must be away in each slot, knowing that storages go as a whole."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from math import gcd

import numpy as np

from planner.problem import Problem

STEPS = 100_000
"""Sizes are counted in at most this many steps; coarser sizes lose a little of the result."""
MAX_OPEN = 200
"""With more gaps open at once their sums are so dense that nothing is gained: not looked at."""


def least_away_bytes(problem: Problem, slots: Sequence[int]) -> tuple[int, ...]:
    """Returns, for each of some slots, the least sum of sizes of its open gaps that makes it fit.

    At most what whole storages must give back, never more: a lower bound for every plan. Where the
    open gaps cannot make a slot fit, the bytes that are over.
    """
    open_counts = np.zeros(problem.slot_count, dtype=np.int64)
    for gap in problem.whole_gaps:
        for part in problem.open_slices(gap):
            open_counts[part] += 1
    over_bytes = {t: max(0, problem.resident_bytes[t] - problem.budget_bytes) for t in slots}
    few = {t for t in slots if over_bytes[t] > 0 and open_counts[t] <= MAX_OPEN}
    open_sizes = _open_sizes_bytes(problem, few)
    return tuple(
        least_sum_bytes(open_sizes[t], over_bytes[t]) if t in few else over_bytes[t] for t in slots
    )


def _open_sizes_bytes(problem: Problem, slots: Collection[int]) -> dict[int, list[int]]:
    """Sizes of the gaps open in each of some slots."""
    ordered = sorted(slots)
    sizes: dict[int, list[int]] = {t: [] for t in ordered}
    for gap in problem.whole_gaps:
        for part in problem.open_slices(gap):
            first, end = bisect_left(ordered, part.start), bisect_left(ordered, part.stop)
            for t in ordered[first:end]:
                sizes[t].append(gap.size_bytes)
    return sizes


def least_sum_bytes(sizes_bytes: Sequence[int], at_least_bytes: int) -> int:
    """Returns the least subset sum that reaches a number of bytes, or a little less than it.

    Sums are the bits of one integer. If there are too many, sizes are rounded up to steps: then
    every true sum is at most one step per size below its rounded one.
    """
    if at_least_bytes == 0 or sum(sizes_bytes) < at_least_bytes:
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
