"""The slots the ILP counts: those where something can change, and full ones between them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.gaps import Gap
from planner.problem import Problem

MAX_KEPT = 1000
"""Above this many slots only the fullest ones are kept, for the sake of the solver's time."""
RUN_KEPT = 2
"""Of each run of slots a thinned choice keeps the fullest one and the last one."""


@dataclass(frozen=True)
class KeptSlots:
    """Some slots of a step, the last one among them.

    Attributes:
        problem: The problem.
        slots: Their numbers, in order.
    """

    problem: Problem
    slots: tuple[int, ...]

    def thinned(self, most: int) -> "KeptSlots":
        """Returns these, or if they are more than so many, the fullest and the last of each run."""
        if len(self.slots) <= most:
            return self
        held = self.problem.resident_bytes.__getitem__
        length = -(-RUN_KEPT * len(self.slots) // most)
        runs = [self.slots[k : k + length] for k in range(0, len(self.slots), length)]
        kept = {run[-1] for run in runs} | {max(run, key=held) for run in runs}
        return KeptSlots(self.problem, tuple(sorted(kept)))

    def last_until(self, slot: int) -> int:
        """Returns the position of the last one up to a slot; -1 if there is none."""
        return bisect_right(self.slots, slot) - 1

    def first_from(self, slot: int) -> int:
        """Returns the position of the first one from a slot on."""
        return bisect_left(self.slots, slot)

    def open_over(self, gap: Gap) -> Iterator[tuple[int, int]]:
        """Yields those that do not fit with nothing moved and in which a gap is open.

        Yields:
            The position, and the number of the slot as the gap counts.
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
        return self.problem.elapsed_us[self.slots[position]] - self._start_us(position - 1)

    def skipped_us(self, position: int) -> float:
        """Returns the time, with nothing moved, from the end of the one before to its start."""
        before = self.slots[position - 1] + 1 if position > 0 else 0
        elapsed_us = self.problem.elapsed_us
        return elapsed_us[self.slots[position]] - elapsed_us[before]

    def _start_us(self, position: int) -> float:
        return self.problem.elapsed_us[self.slots[position]] if position >= 0 else 0.0


def kept_slots(problem: Problem, gaps: Iterable[Gap]) -> KeptSlots:
    """Returns the slots where a gap begins or ends, and full ones from each to the next.

    Between two of them the same gaps are open, so whole gaps that make the fullest slot fit make
    all of them fit. What is fuller than all before it, or than all after it, costs waits of its
    own: it is kept too unless that makes too many.

    Args:
        problem: The problem.
        gaps: The gaps a model may use.
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
    full = records if len(events | records) <= MAX_KEPT else fullest
    return KeptSlots(problem, tuple(sorted(events | full)))


def _records(slots: Sequence[int], held: Callable[[int], int]) -> Iterator[int]:
    """Yields slots fuller than all before them, and than all after them."""
    for order in (slots, slots[::-1]):
        most = -1
        for t in order:
            if held(t) > most:
                most = held(t)
                yield t
