"""Neighbours for steps of many gaps: gaps that end one after the other change together.

One gap of thousands hardly moves the stall, and what it leaves must be made up for by others of its
kind. So a run of gaps goes, some that compute waits for, and as many others come in as the budget
then asks for.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.search.candidate import Candidate, Timing
from planner.search.starts import copy_sources, without_needless


class Regrouping:
    """Draws neighbours, always the same ones in the same order."""

    def __init__(self, problem: Problem, shares: Sequence[float]) -> None:
        """Begins.

        Args:
            problem: What is searched.
            shares: x of its relaxation; empty if that was not solved.
        """
        self._problem = problem
        self._shares = shares
        self._random = random.Random(SETTINGS.seed)

    def draw(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        """Returns a neighbour of a candidate, or None if the one drawn does not fit."""
        order = self._in_order(candidate.chosen)
        gone = self._run(order, timing)
        kept = [i for i in order if i not in gone]
        wanted = [*kept, *self._others(kept, gone)]
        if not self._problem.fits(wanted):
            return None
        fewest = self._problem.fewest_that_fit(wanted)
        needed = copy_sources(self._problem, fewest) if self._heads() else ()
        chosen = without_needless(self._problem, fewest, needed)
        if chosen == candidate.chosen:
            return None
        # What was an exception among the old ones need not be one among the new ones.
        return replace(candidate, chosen=chosen, overrides={})

    def _heads(self) -> bool:
        return self._random.random() < 0.5

    def _in_order(self, chosen: frozenset[int]) -> list[int]:
        """Gaps in the order in which they end."""
        count, gaps = self._problem.slot_count, self._problem.gaps
        return sorted(chosen, key=lambda i: (gaps[i].next_use_slot % count, i))

    def _run(self, order: Sequence[int], timing: Timing) -> frozenset[int]:
        """Gaps that end one after the other, about one that compute waits for half the time."""
        waited = [wait for wait in timing.waits if wait.gap in order]
        at = self._random.randrange(len(order))
        if waited and self._random.random() < SETTINGS.pick_waited:
            waits_us = [wait.wait_us for wait in waited]
            at = order.index(self._random.choices(waited, waits_us)[0].gap)
        length = self._random.choice(SETTINGS.run_lengths)
        first = max(0, at - self._random.randrange(length))
        run = order[first : first + length]
        if self._heads():
            # Their storages do not move at all.
            storages = {self._problem.gaps[i].storage for i in run}
            run = [i for i in order if self._problem.gaps[i].storage in storages]
        return frozenset(run)

    def _others(self, kept: Sequence[int], gone: frozenset[int]) -> list[int]:
        """What may come in, the best first."""
        inside = gone.union(kept)
        others = [i for i in range(len(self._problem.whole_gaps)) if i not in inside]
        keys: list[Callable[[int], float]] = [self._problem.free_us, self._relief(kept)]
        if self._shares:
            keys.append(self._shares.__getitem__)
        return sorted(others, key=self._random.choice(keys), reverse=True)

    def _relief(self, kept: Sequence[int]) -> Callable[[int], float]:
        """In how many slots that do not fit yet a gap is open, more or less."""
        problem = self._problem
        over = problem.floor_bytes(kept) > problem.budget_bytes
        until = np.concatenate([[0], np.cumsum(np.tile(over, 2))]).tolist()
        spread = SETTINGS.relief_spread
        about = [1 + self._random.uniform(-spread, spread) for _ in problem.whole_gaps]

        def relief(i: int) -> float:
            gap = problem.whole_gaps[i]
            return about[i] * float(until[gap.next_use_slot] - until[gap.first_slot])

        return relief
