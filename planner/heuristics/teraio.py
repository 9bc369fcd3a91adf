"""G10 and TERAIO: idle periods by how much they relieve, on what the link has left.

As coded in platformxlab/G10 (`analysis.cc`), which was read (Zhang et al., MICRO 2023), and as
TERAIO's paper, which was read, describes it. While some slot is over the budget, the idle period
that relieves most is taken: G10 takes the largest area (bytes times the time over the budget
between half-way out and half-way back), TERAIO the largest benefit (bytes times the time over the
budget between the earliest end of the way out and the latest start of the way back) per time of its
copies. Both ends are found by walking the time that earlier choices left on the link; periods too
short for both ways are passed over. At the end G10 moves copies back earlier while memory permits.
What lives from step to step has a period that wraps round the step boundary, as both have it.
Where periods run out before the step fits, the rest is filled up by size times idle time: without
that there would be no figure.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from planner.heuristics.eager_runtime import walk
from planner.heuristics.eviction import FreeBytes
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary

FloatArray = NDArray[np.float64]
SlotArray = NDArray[np.int64]


class LinkBudget:
    """One direction: in every slot it can carry for as long as the slot takes.

    Steps repeat: slots count on past the end of the step, and a copy that goes on in the next one
    takes time from its slots.
    """

    def __init__(self, durations_us: tuple[float, ...]) -> None:
        self._left_us = np.array(durations_us)
        self._sum()

    def finish_slots(self, first_slots: SlotArray, copies_us: FloatArray) -> SlotArray:
        """Returns the slots in which copies end that begin at others; past two steps if none."""
        needed_us = self._before_us[first_slots] + copies_us
        return np.searchsorted(self._before_us, needed_us, side="left") - 1

    def start_slots(self, end_slots: SlotArray, copies_us: FloatArray) -> SlotArray:
        """Returns the last slots in which copies can begin that end before others; or below 0."""
        needed_us = self._before_us[end_slots] - copies_us
        return np.searchsorted(self._before_us, needed_us, side="right") - 1

    def use(self, slots: range, copy_us: float) -> None:
        """Takes a copy's time from slots, in their order."""
        for slot in slots:
            if copy_us <= 0:
                break
            t = slot % len(self._left_us)
            used_us = min(copy_us, float(self._left_us[t]))
            self._left_us[t] -= used_us
            copy_us -= used_us
        self._sum()

    def _sum(self) -> None:
        two_steps_us = np.concatenate((self._left_us, self._left_us))
        self._before_us = np.concatenate(([0.0], np.cumsum(two_steps_us)))


class _Periods:
    """The idle periods of a step, and what is left of the link and of memory.

    Attributes:
        free: Bytes free in each slot; below 0 where it is over the budget.
        in_slots: Where each chosen period's copy back begins, in order of choice.
    """

    def __init__(self, task: Task) -> None:
        problem = task.problem
        self.task = task
        self.free = FreeBytes(problem, {})
        self.in_slots: dict[int, int] = {}
        self.sizes_bytes = np.array([float(gap.size_bytes) for gap in task.gaps])
        self.outs_us, self.ins_us = np.array(problem.d2h_us), np.array(problem.h2d_us)
        self._firsts = np.array([gap.first_slot for gap in task.gaps], dtype=np.int64)
        self._ends = np.array([gap.next_use_slot for gap in task.gaps], dtype=np.int64)
        self._out, self._in = LinkBudget(problem.durations_us), LinkBudget(problem.durations_us)
        self._open = np.ones(len(task.gaps), dtype=np.bool_)

    def relief_us(self, share: float) -> FloatArray:
        """Time over the budget between a share of the way out and the same share of the way in."""
        outs, ins = self._span(share)
        over_us = np.where(self.free.by_slot < 0, np.array(self.task.problem.durations_us), 0.0)
        before_us = np.concatenate(([0.0], np.cumsum(over_us), over_us.sum() + np.cumsum(over_us)))
        return np.where(ins > outs, before_us[ins] - before_us[np.minimum(outs, ins)], 0.0)

    def choose(self, benefit: FloatArray) -> bool:
        """Takes the open period with the most benefit; False if none has any."""
        best = int(np.argmax(np.where(self._open, benefit, -1.0)))
        if not self._open[best] or benefit[best] <= 0:
            return False
        self._open[best] = False
        outs, ins = self._span(1.0)
        if ins[best] > outs[best]:
            gap, problem = self.task.gaps[best], self.task.problem
            first, end, count = gap.first_slot, gap.next_use_slot, problem.slot_count
            self._out.use(range(first, first + count), problem.d2h_us[best])
            self._in.use(range(end - 1, end - 1 - count, -1), problem.h2d_us[best])
            self.free.give(gap.size_bytes, int(outs[best]), int(ins[best]))
            self.in_slots[best] = int(ins[best])
        return True

    def _span(self, share: float) -> tuple[SlotArray, SlotArray]:
        """The first slot without each period's bytes, and the slot in which they start back."""
        outs = self._out.finish_slots(self._firsts, share * self.outs_us) + 1
        ins = self._in.start_slots(self._ends, share * self.ins_us)
        last = 2 * self.task.problem.slot_count
        return np.clip(outs, 0, last), np.clip(ins, 0, last)


def _area(periods: _Periods) -> FloatArray:
    """G10's: bytes times time, half-way out to half-way in."""
    return periods.sizes_bytes * periods.relief_us(0.5)


def _benefit_over_cost(periods: _Periods) -> FloatArray:
    """TERAIO's: the same between the ends of both ways, per time of the copies."""
    copies_us = periods.outs_us + periods.ins_us
    return periods.sizes_bytes * periods.relief_us(1.0) / copies_us


def _plan(task: Task, worth: Callable[[_Periods], FloatArray], *, fetches_eagerly: bool) -> Swaps:
    if not task.gaps:
        return ()
    periods = _Periods(task)
    while not periods.free.all_fit() and periods.choose(worth(periods)):
        pass
    if fetches_eagerly:
        _fetch_eagerly(periods)
    return walk(task.problem, _filled_up(task, periods.in_slots))


def _fetch_eagerly(periods: _Periods) -> None:
    """G10's second pass: in order of their latest start, earlier while there is room."""
    for i, slot in sorted(periods.in_slots.items(), key=lambda item: item[1]):
        gap = periods.task.gaps[i]
        earlier = periods.free.first_with_room(gap.size_bytes, gap.first_slot + 1, slot)
        periods.free.give(-gap.size_bytes, earlier, slot)
        periods.in_slots[i] = earlier


def _filled_up(task: Task, in_slots: dict[int, int]) -> dict[int, int]:
    """Adds gaps by size times idle time until the step fits, each fetched just in time."""
    free = FreeBytes(task.problem, {i: task.gaps[i].first_slot for i in in_slots})
    filled = dict(in_slots)
    rest = [i for i in range(len(task.gaps)) if i not in filled]
    for i in task.largest_first(rest, task.problem.size_times_idle):
        if free.all_fit():
            break
        gap = task.gaps[i]
        filled[i] = task.latest_start_slot(i)
        free.give(gap.size_bytes, gap.first_slot, gap.next_use_slot)
    return filled


SIMPLIFIED = (
    "to host memory alone, no disk; where its choices do not fit, filled up by size times idle time"
)
G10 = Heuristic(
    name="G10",
    source="Zhang et al. 2023, MICRO; platformxlab/G10",
    known_from=KnownFrom.CODE,
    simplified=SIMPLIFIED,
    boundary=Boundary.PERIODIC,
    rule=partial(_plan, worth=_area, fetches_eagerly=True),
)
TERAIO = Heuristic(
    name="TERAIO",
    source="2025, by the group of G10",
    known_from=KnownFrom.PAPER,
    simplified=SIMPLIFIED,
    boundary=Boundary.PERIODIC,
    rule=partial(_plan, worth=_benefit_over_cost, fetches_eagerly=False),
)
