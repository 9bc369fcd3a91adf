"""The slots the ILP counts: those where something can change, and full ones between them."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from math import gcd

import numpy as np

from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS


@dataclass(frozen=True)
class KeptSlots:
    """Some slots of a problem's step in order, the last one among them."""

    problem: Problem
    slots: tuple[int, ...]

    def thinned(self, most: int) -> "KeptSlots":
        """Returns these, or if they are more than so many, the fullest and the last of each run.

        In each run gaps of about as many bytes begin or end: when these may move is what is lost.
        """
        if len(self.slots) <= most:
            return self
        held = self.problem.resident_bytes.__getitem__
        so_far_bytes = list(accumulate(self._event_bytes()))
        run_bytes = max(1.0, SETTINGS.kept_of_run * so_far_bytes[-1] / most)
        by_run = groupby(
            zip(self.slots, so_far_bytes, strict=True),
            key=lambda slot: math.ceil(slot[1] / run_bytes),
        )
        runs = [[slot for slot, _ in run] for _, run in by_run]
        kept = {run[-1] for run in runs} | {max(run, key=held) for run in runs}
        return KeptSlots(self.problem, tuple(sorted(kept)))

    def _event_bytes(self) -> Iterator[int]:
        """Yields the bytes of the gaps that begin or end in each of them."""
        event_bytes: Counter[int] = Counter()
        for gap in self.problem.whole_gaps:
            for slot in (gap.first_slot, gap.next_use_slot % self.problem.slot_count):
                event_bytes[slot] += gap.size_bytes
        return (event_bytes[slot] for slot in self.slots)

    def last_until(self, slot: int) -> int:
        """Returns the position of the last one up to a slot; -1 if there is none."""
        return bisect_right(self.slots, slot) - 1

    def first_from(self, slot: int) -> int:
        """Returns the position of the first one from a slot on."""
        return bisect_left(self.slots, slot)

    def open_over(self, gap: Gap) -> Iterator[tuple[int, int]]:
        """Yields those that do not fit with nothing moved and in which a gap is open.

        Each with its position, and numbered as the gap counts.
        """
        count = self.problem.slot_count
        for shift in (0, count):
            first = self.first_from(gap.first_slot - shift)
            for k in range(first, self.first_from(gap.next_use_slot - shift)):
                t = self.slots[k]
                if self.problem.resident_bytes[t] > self.problem.budget_bytes:
                    yield k, t + shift

    def before_us(self, position: int) -> float:
        """Returns the time, with nothing moved, from the start of the one before to its start."""
        elapsed_us = self.problem.elapsed_us
        before_us = elapsed_us[self.slots[position - 1]] if position > 0 else 0.0
        return elapsed_us[self.slots[position]] - before_us

    def skipped_us(self, position: int) -> float:
        """Returns the time, with nothing moved, from the end of the one before to its start."""
        before = self.slots[position - 1] + 1 if position > 0 else 0
        elapsed_us = self.problem.elapsed_us
        return elapsed_us[self.slots[position]] - elapsed_us[before]


def kept_slots(
    problem: Problem, gaps: Iterable[Gap], most: int = SETTINGS.max_kept_slots
) -> KeptSlots:
    """Returns the slots where a gap begins or ends, and full ones from each to the next.

    Between two of them the same gaps are open, so whole gaps that make the fullest slot fit make
    all of them fit. What is fuller than all before it, or than all after it, costs waits of its
    own: it is kept too unless that makes too many.
    """
    count = problem.slot_count
    events = {0, count - 1}
    for gap in gaps:
        events |= {gap.first_slot, gap.next_use_slot % count}
    edges = [*sorted(events), count]
    stretches = [
        [t for t in range(a, b) if problem.resident_bytes[t] > problem.budget_bytes]
        for a, b in pairwise(edges)
    ]
    held = problem.resident_bytes.__getitem__
    fullest = {max(over, key=held) for over in stretches if over}
    records = {t for over in stretches for t in _records(over, held)}
    full = records if len(events | records) <= most else fullest
    return KeptSlots(problem, tuple(sorted(events | full)))


def _records(slots: Sequence[int], held: Callable[[int], int]) -> Iterator[int]:
    """Yields slots fuller than all before them, and than all after them."""
    for order in (slots, slots[::-1]):
        most = -1
        for t in order:
            if held(t) > most:
                most = held(t)
                yield t


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
    few = {t for t in slots if over_bytes[t] > 0 and open_counts[t] <= SETTINGS.max_open_gaps}
    open_sizes = _open_sizes_bytes(problem, few)
    return tuple(
        least_sum_bytes(open_sizes[t], over_bytes[t]) if t in few else over_bytes[t] for t in slots
    )


def _open_sizes_bytes(problem: Problem, slots: Collection[int]) -> dict[int, list[int]]:
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
    if sum(sizes_bytes) // step > SETTINGS.max_sum_steps:
        step = -(-sum(sizes_bytes) // SETTINGS.max_sum_steps)
        slack_steps = len(sizes_bytes)
    sums = 1
    for size_bytes in sizes_bytes:
        sums |= sums << -(-size_bytes // step)
    wanted = -(-at_least_bytes // step) if slack_steps == 0 else at_least_bytes // step
    reached = sums >> wanted
    least = wanted + (reached & -reached).bit_length() - 1
    return max(at_least_bytes, (least - slack_steps) * step)
