"""Capuchin with its recomputation: swap what is free, then whichever costs less.

As described in Capuchin (Peng et al., ASPLOS 2020, section 4), read in others' notes. Tensors that
are idle over the peak are swapped by free time, longest first, as long as that is not negative.
If that does not do, one more is taken at a time until the step fits: of the tensor with the most
free time and the one with the most memory saved per second (MSPS) of recomputing it, the one that
costs less, which is the time its copies lack, or its recomputing. MSPS are found again after every
choice: what a recipe reads may be gone by then, and has to be recomputed first.

Free times know nothing of other copies on the link, and there may be far more of them than the link
carries. So all, three quarters, a half, a quarter and none of what looks free is swapped first; a
swap after these costs its copies as well; and the best in the simulator counts.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heapify, heappop, heapreplace

from planner.heuristics.capuchin import with_feedback
from planner.heuristics.controls import just_in_time
from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from planner.problem.gaps import Gap, useful_gaps
from planner.problem.problem import Problem
from planner.recompute.recipes import Recipe, recipe_for
from planner.recompute.rewriting import MAX_RECIPE_OPS

SPLITS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the free swaps that are taken before anything else."""


def _plan(task: RecomputeTask, stop: Stop) -> Choice:
    problem = task.base.problem
    at_peak = set(useful_gaps(task.base.gaps, problem.resident_bytes, problem.budget_bytes))
    candidates = [i for i, gap in enumerate(task.base.gaps) if gap in at_peak]
    order = task.base.largest_first(candidates, problem.free_us)
    free = sum(problem.free_us(i) >= 0 for i in order)
    found: list[tuple[Choice, set[int]]] = []
    for first in sorted({round(share * free) for share in SPLITS}, reverse=True):
        if not (found and stop()):
            choice, moved = _split(task, order, first, stop)
            chosen = _gaps_of(choice.problem, moved)
            found.append((choice.moving(partial(just_in_time, chosen=chosen)), moved))
    best, moved = min(found, key=lambda one: (one[0].over_bytes, one[0].step_us))
    chosen = _gaps_of(best.problem, moved)
    fed_back = best.moving(lambda left: with_feedback(left, chosen, stop))
    return replace(fed_back, was_stopped=stop())


def _split(
    task: RecomputeTask, order: Sequence[int], first: int, stop: Stop
) -> tuple[Choice, set[int]]:
    """Swaps the first few, then swaps or drops one more at a time until the step fits."""
    taken = [(i, False) for i in order[:first]]
    if not _fits(task, taken):
        taken += _Hybrid(task, order[first:]).order(stop)
    count = bisect_left(range(len(taken)), True, key=lambda n: _fits(task, taken[:n]))
    return _taken(task, taken[:count])


def _fits(task: RecomputeTask, taken: Iterable[tuple[int, bool]]) -> bool:
    choice, moved = _taken(task, taken)
    return choice.problem.fits(_gaps_of(choice.problem, moved))


def _taken(task: RecomputeTask, taken: Iterable[tuple[int, bool]]) -> tuple[Choice, set[int]]:
    """What is dropped, and the storages that are swapped."""
    dropped, moved = [], set()
    for i, drops in taken:
        gap = task.base.gaps[i]
        if drops:
            dropped.append([gap])
        else:
            moved.add(gap.storage)
    choice = task.dropping(dropped)
    assert choice is not None, "each had a recipe beside the ones before it"
    return choice, moved


def _gaps_of(problem: Problem, storages: set[int]) -> list[int]:
    """The gaps of some storages that are open where the step does not fit."""
    useful = set(useful_gaps(problem.gaps, problem.resident_bytes, problem.budget_bytes))
    return [i for i, g in enumerate(problem.gaps) if g.storage in storages and g in useful]


@dataclass(order=True)
class _Offer:
    """A gap that could be dropped; the best is the least."""

    negative_msps: float
    i: int
    us: float = field(compare=False)
    recipe: Recipe = field(compare=False)


class _Hybrid:
    """Takes one gap after the other, swapped or dropped."""

    def __init__(self, task: RecomputeTask, rest: Sequence[int]) -> None:
        self._task = task
        self._rest = rest
        self._absent: dict[int, int] = {}
        saved = set(task.saved)
        found = (self._offer(i) for i in rest if task.base.gaps[i] in saved)
        self._offers = [offer for offer in found if offer is not None]
        heapify(self._offers)

    def order(self, stop: Stop) -> Iterator[tuple[int, bool]]:
        """Yields gaps with whether they are dropped."""
        taken: set[int] = set()
        for i in self._rest:
            while i not in taken:
                offer = None if stop() else self._best(taken)
                drops = offer is not None and offer.us < self._lacking_us(i)
                chosen = offer.i if drops and offer is not None else i
                if drops:
                    gap = self._task.base.gaps[chosen]
                    self._absent[gap.storage] = self._first_op(gap)
                taken.add(chosen)
                yield chosen, drops

    def _lacking_us(self, i: int) -> float:
        """What a swap costs beside the free ones, which have the link already."""
        problem = self._task.base.problem
        return problem.d2h_us[i] + problem.h2d_us[i] - min(0.0, problem.free_us(i))

    def _best(self, taken: set[int]) -> _Offer | None:
        """The offer with the highest MSPS; those of the others have fallen at most."""
        while self._offers:
            best = self._offers[0]
            if best.i in taken:
                heappop(self._offers)
            elif self._absent.keys().isdisjoint(best.recipe.found):
                return best
            elif (again := self._offer(best.i)) is None:
                heappop(self._offers)
            else:
                heapreplace(self._offers, again)
        return None

    def _offer(self, i: int) -> _Offer | None:
        gap, ops = self._task.base.gaps[i], self._task.base.step.profile.ops
        first_op = self._first_op(gap)
        absent = self._absent | {gap.storage: first_op}
        recipe = recipe_for(
            self._task.effects,
            gap.next_use_slot,
            [(gap.storage, first_op)],
            absent,
            MAX_RECIPE_OPS,
        )
        if recipe is None:
            return None
        us = sum(ops[op].duration_us for op in recipe.ops)
        return _Offer(-gap.size_bytes / max(us, 1e-9), i, us, recipe)

    def _first_op(self, gap: Gap) -> int:
        return self._task.effects.first_op[gap.first_slot]


CAPUCHIN_RECOMPUTE = Recomputing(
    name="Capuchin, with recomputation",
    source="Peng et al. 2020, ASPLOS",
    known_from=KnownFrom.OTHERS,
    simplified="how much is swapped first is tried out; several that need one result share its "
    "recomputing; otherwise as Capuchin",
    rule=_plan,
)
