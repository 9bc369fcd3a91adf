"""Searches for the set of gaps and the timing that wait least.

Every draft is timed by the list scheduler, so every answer meets the budget; what is compared is
the stall, with the bytes moved to break ties. The search is deterministic: a fixed seed, a fixed
number of tries, and the time limit only as a guard.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from planner.candidates import without_needless
from planner.draft import POLICIES, Draft, Timing
from planner.model import BYTES_WEIGHT
from planner.neighbours import Neighbours
from planner.problem import Problem
from planner.timing import schedule_trips
from planner.trip_layout import fits_host
from profiles.progress import Progress

MIN_TRIES, TRIES_PER_GAP, MAX_TRIES = 1000, 30, 2000
"""The local search stops after so many tries in a row without a gain worth having."""
TRIES_SIDEWAYS = 100
"""So often it returns to the best answer, lest it drift away from it."""
GOOD_ENOUGH = 1e-3
"""The search stops this close to the bound, as a share of the step: the ILP solver's own gap."""
WORTH_HAVING = 1e-4
"""A gain worth another round of tries, as a share of the step; smaller ones are kept as well."""


@dataclass(frozen=True)
class Answer:
    """A timed draft.

    Attributes:
        draft: What the scheduler was told, without gaps whose copies had no use.
        timing: What it made of it.
        cost_us: Stall, plus a little for the bytes moved.
    """

    draft: Draft
    timing: Timing
    cost_us: float


class Search:
    """One search over one problem.

    Args:
        problem: What is searched.
        bound_us: No answer can wait less, so an answer that waits no more ends the search.
        deadline_s: When to stop, on the clock of `time.monotonic`.
        progress: Told how far it is.
    """

    def __init__(
        self, problem: Problem, bound_us: float, deadline_s: float, progress: Progress
    ) -> None:
        self.problem = problem
        self.bound_us = bound_us
        self.deadline_s = deadline_s
        self.progress = progress
        self._best: Answer | None = None

    def run(self, starts: Iterable[frozenset[int]]) -> Answer:
        """Returns the best answer found.

        Args:
            starts: Sets of gaps that fit the budget; whole trips of one of them fit the host pool.
        """
        for chosen in starts:
            self._try_policies(chosen)
            if self._over(GOOD_ENOUGH):
                break
        assert self._best is not None, "one start fits budget and host pool"
        self._improve(self._best)
        return self._best

    def _over(self, share: float = 0.0) -> bool:
        """Whether there is nothing left to gain, or less than a share of the step, or no time."""
        if self._best is None:
            return False
        worth_us = share * (self.problem.compute_us + self.bound_us)
        done = self._best.timing.stall_us <= self.bound_us + worth_us
        return done or time.monotonic() > self.deadline_s

    def _try_policies(self, chosen: frozenset[int]) -> None:
        """Times one set in every way, first as it is and then without what proved needless."""
        for policy in POLICIES:
            answer = self._time(Draft(chosen, policy))
            if not self._fits_host(answer):
                # Whole trips of a start may fit only if no copy outlasts its trip.
                answer = self._time(Draft(chosen, policy, anew=chosen))
            used = [trip.gap for trip in answer.timing.trips]
            fewer = Draft(without_needless(self.problem, used), policy, anew=answer.draft.anew)
            self._time(fewer)
            if self._over():
                return

    def _time(self, draft: Draft) -> Answer:
        """Times a draft and keeps the answer if it is the best so far."""
        timing = schedule_trips(self.problem, draft)
        kept = replace(draft, chosen=timing.chosen)
        answer = Answer(kept, timing, _cost_us(self.problem, timing))
        better = self._best is None or answer.cost_us < self._best.cost_us
        if better and self._fits_host(answer):
            self._best = answer
        return answer

    def _fits_host(self, answer: Answer) -> bool:
        return fits_host(self.problem, answer.draft.chosen, answer.timing.trips)

    def _improve(self, best: Answer) -> None:
        """Local search; walks sideways, to answers that wait no longer but may move more bytes."""
        neighbours = Neighbours(self.problem)
        gap_count = len(self.problem.gaps)
        max_tries = min(MAX_TRIES, max(MIN_TRIES, TRIES_PER_GAP * gap_count))
        tries, mark_us, current = 0, best.cost_us, best
        while tries < max_tries and not self._over(GOOD_ENOUGH):
            self.progress("improving the plan", tries, max_tries)
            tries += 1
            if tries % TRIES_SIDEWAYS == 0:
                current = best
            draft = neighbours.draw(current.draft, current.timing)
            if draft is None:
                continue
            answer = self._time(draft)
            if answer.timing.stall_us <= current.timing.stall_us and self._fits_host(answer):
                current = answer
            if self._best is not None and self._best.cost_us < best.cost_us:
                current = best = self._best
                if mark_us - best.cost_us > WORTH_HAVING * self.problem.compute_us:
                    tries, mark_us = 0, best.cost_us


def _cost_us(problem: Problem, timing: Timing) -> float:
    out_us = sum(problem.d2h_us[trip.gap] for trip in timing.trips if not trip.clean)
    copies_us = out_us + sum(problem.h2d_us[trip.gap] for trip in timing.trips)
    return timing.stall_us + BYTES_WEIGHT * copies_us
