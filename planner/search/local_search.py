"""Searches for the set of gaps and the timing that wait least.

Every draft is timed by the list scheduler; what is compared is the stall, with the bytes moved to
break ties. An answer is kept only if it meets the budgets: that is looked at, whatever made it. The
search is deterministic: a fixed seed, a fixed number of tries, and the time limit only as a guard.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from planner.heuristics.heuristic import held_bytes
from planner.ilp.deadline import Limits, Standing, Told, untold
from planner.ilp.model import BYTES_WEIGHT
from planner.plan.lanes import SAME_US
from planner.problem.host_layout import fits_host
from planner.problem.problem import Problem
from planner.search.candidate import NEVER, NO_HOLD, POLICIES, Draft, Hold, Policy, Timing
from planner.search.list_scheduler import schedule_swaps
from planner.search.starting_sets import copy_sources, without_needless
from planner.search.warm_starts import Start
from profiles.schema.progress import Progress

SEED = 0
SECOND_MOVE = 0.25
"""Chance of one more move: some pay only together."""


class Neighbours:
    """Draws neighbours, always the same ones in the same order."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._random = random.Random(SEED)

    def draw(self, draft: Draft, timing: Timing) -> Draft | None:
        """Returns a neighbour of a draft, or None if the one drawn does not fit.

        Args:
            draft: The draft.
            timing: What the scheduler made of it; moves favour what compute waits for.
        """
        moved = self._move(draft, timing)
        while moved is not None and self._random.random() < SECOND_MOVE:
            moved = self._move(moved, timing)
        return moved

    def _move(self, draft: Draft, timing: Timing) -> Draft | None:
        kind = self._random.random()
        if kind < 0.5:
            return self._exchange(draft, timing)
        if kind < 0.95:
            return self._hold(draft, timing)
        if self._problem.host_budget_bytes is not None and kind < 0.975:
            return self._share(draft, timing)
        return replace(draft, policy=self._random.choice(POLICIES))

    def _exchange(self, draft: Draft, timing: Timing) -> Draft | None:
        """Drops up to two gaps and adds up to two."""
        outside = [i for i in range(len(self._problem.gaps)) if i not in draft.chosen]
        drops, adds = self._random.choice(((1, 0), (0, 1), (1, 1), (1, 1), (2, 1), (1, 2)))
        dropped = {self._pick(draft, timing) for _ in range(drops)} if draft.chosen else set()
        added = self._random.sample(outside, min(adds, len(outside)))
        chosen = set(draft.chosen) - dropped
        for i in added:
            chosen = {j for j in chosen if not self._problem.clash(i, j)} | {i}
        if chosen == draft.chosen or not self._problem.fits(chosen):
            return None
        holds = draft.holds
        if added and self._random.random() < 0.5:
            holds = self._make_way(draft, timing, added[0])
        return replace(draft, chosen=frozenset(chosen), holds=holds)

    def _make_way(self, draft: Draft, timing: Timing, i: int) -> dict[int, Hold]:
        """Holds back what is on its way to the host when a gap begins, and lets that gap go first.

        Copies cannot be interrupted, so an urgent one may be worth an idle lane before it.
        """
        begin_slot = self._problem.gaps[i].first_slot
        holds = dict(draft.holds)
        for trip in timing.trips:
            if trip.swap_out_slot < begin_slot <= trip.release_slot:
                holds[trip.gap] = holds.get(trip.gap, NO_HOLD)._replace(out_slot=begin_slot)
        holds[i] = holds.get(i, NO_HOLD)._replace(rank=-1)
        return holds

    def _hold(self, draft: Draft, timing: Timing) -> Draft | None:
        """Changes when one gap's copies may be issued."""
        if not draft.chosen:
            return None
        i = self._pick(draft, timing)
        gap = self._problem.gaps[i]
        hold = draft.holds.get(i, NO_HOLD)
        field = self._random.choice((*Hold._fields, "way"))
        if field == "way":
            return replace(draft, holds=self._make_way(draft, timing, i))
        if field == "rank":
            changed = hold._replace(rank=self._random.choice((-1, 0, 1)))
        elif field == "out_slot":
            changed = hold._replace(
                out_slot=self._random.randrange(gap.first_slot, gap.next_use_slot)
            )
        elif field == "release_slot":
            slots = (*range(gap.first_slot, gap.next_use_slot), NEVER)
            changed = hold._replace(release_slot=self._random.choice(slots))
        else:
            slot = self._random.randint(gap.first_slot, gap.next_use_slot)
            changed = hold._replace(in_slot=slot)
        if changed == hold:
            return None
        return replace(draft, holds={**draft.holds, i: changed})

    def _share(self, draft: Draft, timing: Timing) -> Draft | None:
        """Copies one gap anew, or lets it rely on an earlier copy again."""
        if not draft.chosen:
            return None
        return replace(draft, anew=draft.anew ^ {self._pick(draft, timing)})

    def _pick(self, draft: Draft, timing: Timing) -> int:
        """A chosen gap; half the time one that compute waits for, or that is away then."""
        if timing.waits and self._random.random() < 0.5:
            wait = self._random.choice(timing.waits)
            slots = (wait.slot, wait.slot + self._problem.slot_count)
            near = [
                trip.gap
                for trip in timing.trips
                if any(trip.swap_out_slot <= t <= self._end_slot(trip.gap) for t in slots)
            ]
            near = [i for i in near if i in draft.chosen]
            if near:
                return self._random.choice(near)
        return self._random.choice(sorted(draft.chosen))

    def _end_slot(self, i: int) -> int:
        return self._problem.gaps[i].next_use_slot


MIN_TRIES, TRIES_PER_GAP, MAX_TRIES = 1000, 30, 2000
"""The local search stops after so many tries in a row without a gain worth having."""
TRIES_SIDEWAYS = 100
"""So often it returns to the best answer, lest it drift away from it."""
GOOD_ENOUGH = 1e-3
"""The search stops this close to the bound, as a share of the step: the ILP solver's own gap."""
EARLIER_LEADS = (math.inf, 4.0, 2.0)
"""The earliest first."""
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
    """One search over one problem, in stages; each starts from what those before it found.

    Args:
        problem: What is searched.
        limits: When to stop.
        progress: Told how far it is.
        told: Told of every better answer and bound.
    """

    def __init__(
        self, problem: Problem, limits: Limits, progress: Progress, told: Told = untold
    ) -> None:
        self.problem = problem
        self.limits = limits
        self.progress = progress
        self.told = told
        self.bound_us = 0.0
        self._best: Answer | None = None

    @property
    def best(self) -> Answer:
        """The best answer so far."""
        assert self._best is not None, "one start fits budget and host pool"
        return self._best

    @property
    def good(self) -> bool:
        """Whether there is nothing left worth looking for."""
        worth_us = GOOD_ENOUGH * (self.problem.compute_us + self.bound_us)
        return self.best.timing.stall_us <= self.bound_us + worth_us

    @property
    def perfect(self) -> bool:
        """Whether no answer can wait less, as far as a clock can tell."""
        return self.best.timing.stall_us <= self.bound_us + SAME_US

    @property
    def over(self) -> bool:
        """Whether to stop: there is an answer, and it is good, or time is up."""
        return self._best is not None and (self.good or self.limits.over)

    def start(self, chosen: frozenset[int]) -> None:
        """Finds a first answer, whatever its stall.

        Args:
            chosen: A set whose whole trips fit the host pool, each with a copy of its own.
        """
        pared = without_needless(self.problem, sorted(chosen))
        for first in (pared, chosen):
            for keeps_copies in (True, False):
                if self._best is None:
                    # Pared at once: if it does not stall, nothing else will be tried.
                    self._pare(self._time(Draft(first, POLICIES[0], keeps_copies=keeps_copies)))

    def try_sets(self, chosen_sets: Iterable[frozenset[int]], policies: Sequence[Policy]) -> None:
        """Times sets of gaps that fit the budget, each with some policies."""
        for chosen in chosen_sets:
            for policy in policies:
                if self.over:
                    return
                self._try(chosen, policy)

    def try_starts(self, starts: Iterable[Start]) -> None:
        """Takes starts that meet the budget, unless the best answer is as good as can be.

        Near the bound is not enough here: no published heuristic is to do better.
        """
        taken = iter(starts)
        while not (self.perfect or self.limits.over):
            start = next(taken, None)
            if start is None:
                return
            if start.timing is None:
                self._time(start.draft)
            else:
                self._keep(start.draft, start.timing)

    def _try(self, chosen: frozenset[int], policy: Policy) -> None:
        """Times a set as it is, and then without what proved needless."""
        self._pare(self._time(Draft(chosen, policy)))

    def _pare(self, answer: Answer) -> None:
        """Times a timed draft again without what proved needless."""
        used = [trip.gap for trip in answer.timing.trips]
        for needed in ((), copy_sources(self.problem, used)):
            fewer = without_needless(self.problem, used, needed)
            if fewer != answer.draft.chosen:
                self._time(replace(answer.draft, chosen=fewer))

    def _time(self, draft: Draft) -> Answer:
        """Times a draft and keeps the answer if it is the best so far."""
        return self._keep(draft, schedule_swaps(self.problem, draft))

    def _keep(self, draft: Draft, timing: Timing) -> Answer:
        kept = replace(draft, chosen=timing.chosen)
        answer = Answer(kept, timing, _cost_us(self.problem, timing))
        better = self._best is None or answer.cost_us < self._best.cost_us
        if better and self._holds(answer):
            self._best = answer
            self._tell()
        return answer

    def bounded(self, bound_us: float) -> None:
        """Takes note of a bound: no answer can wait less."""
        self.bound_us = max(self.bound_us, bound_us)
        self._tell()

    def _tell(self) -> None:
        stall_us = self.best.timing.stall_us
        self.told(Standing(stall_us, self.bound_us, self.problem.compute_us))

    def _holds(self, answer: Answer) -> bool:
        """Whether an answer meets both budgets."""
        trips = answer.timing.trips
        if max(held_bytes(self.problem, trips)) > self.problem.budget_bytes:
            return False
        return fits_host(self.problem, answer.draft.chosen, trips)

    def improve(self) -> None:
        """Local search; walks sideways, to answers that wait no longer but may move more bytes."""
        neighbours = Neighbours(self.problem)
        gap_count = len(self.problem.gaps)
        max_tries = min(MAX_TRIES, max(MIN_TRIES, TRIES_PER_GAP * gap_count))
        best = current = self.best
        tries, mark_us = 0, best.cost_us
        while tries < max_tries and not self.over:
            self.progress("improving the plan", tries, max_tries)
            tries += 1
            if tries % TRIES_SIDEWAYS == 0:
                current = best
            draft = neighbours.draw(current.draft, current.timing)
            if draft is None:
                continue
            answer = self._time(draft)
            if answer.timing.stall_us <= current.timing.stall_us and self._holds(answer):
                current = answer
            if self.best.cost_us < best.cost_us:
                current = best = self.best
                if mark_us - best.cost_us > WORTH_HAVING * self.problem.compute_us:
                    tries, mark_us = 0, best.cost_us

    def slacken(self) -> None:
        """Fetches earlier where that costs nothing, lest a step that is a little late waits."""
        best = self.best
        for lead in EARLIER_LEADS:
            if lead > best.draft.policy.lead:
                policy = replace(best.draft.policy, lead=lead)
                answer = self._time(replace(best.draft, policy=policy))
                if answer.cost_us <= best.cost_us and self._holds(answer):
                    self._best = answer
                    return


def _cost_us(problem: Problem, timing: Timing) -> float:
    out_us = sum(problem.d2h_us[trip.gap] for trip in timing.trips if not trip.clean)
    copies_us = out_us + sum(problem.h2d_us[trip.gap] for trip in timing.trips)
    return timing.stall_us + BYTES_WEIGHT * copies_us
