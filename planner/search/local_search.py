"""Searches for the set of gaps and the timing that wait least.

Every candidate is timed by the list scheduler; what is compared is the stall, with the bytes moved
to break ties. An answer is kept only if it meets the budgets: that is looked at, whatever made it.
The search is deterministic: a fixed seed, a fixed number of tries, and the time limit only as a
guard.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from planner.ilp.deadline import Deadline, Incumbent, OnIncumbent
from planner.plan.lanes import SAME_US
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.problem.timed_swap import fits_host, held_bytes
from planner.search.candidate import (
    NEVER,
    NO_OVERRIDE,
    POLICIES,
    Candidate,
    Override,
    Policy,
    Timing,
    with_yielding,
)
from planner.search.list_scheduler import schedule_swaps, schedule_within
from planner.search.regrouping import Regrouping
from planner.search.starts import Start, copy_sources, without_needless
from profiles.schema.progress import Progress


class Neighbours:
    """Draws neighbours, always the same ones in the same order."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._policies = with_yielding(POLICIES, problem.link)
        self._random = random.Random(SETTINGS.seed)

    def draw(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        """Returns a neighbour of a candidate, or None if the one drawn does not fit.

        Moves favour what compute waits for in the scheduler's timing of it.
        """
        moved = self._move(candidate, timing)
        while moved is not None and self._random.random() < SETTINGS.second_move:
            moved = self._move(moved, timing)
        return moved

    def _move(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        kind = self._random.random()
        if kind < SETTINGS.exchange:
            return self._exchange(candidate, timing)
        if kind < SETTINGS.override:
            return self._override(candidate, timing)
        if self._problem.host_budget_bytes is not None and kind < SETTINGS.share_copies:
            return self._share(candidate, timing)
        return replace(candidate, policy=self._random.choice(self._policies))

    def _exchange(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        """Drops up to two gaps and adds up to two."""
        outside = [i for i in range(len(self._problem.gaps)) if i not in candidate.chosen]
        drops, adds = self._random.choice(((1, 0), (0, 1), (1, 1), (1, 1), (2, 1), (1, 2)))
        dropped = {self._pick(candidate, timing) for _ in range(drops)} if candidate.chosen else {}
        added = self._random.sample(outside, min(adds, len(outside)))
        chosen = set(candidate.chosen).difference(dropped)
        for i in added:
            chosen = {j for j in chosen if not self._problem.clash(i, j)} | {i}
        if chosen == candidate.chosen or not self._problem.fits(chosen):
            return None
        overrides = candidate.overrides
        if added and self._random.random() < SETTINGS.make_way:
            overrides = self._make_way(candidate, timing, added[0])
        return replace(candidate, chosen=frozenset(chosen), overrides=overrides)

    def _make_way(self, candidate: Candidate, timing: Timing, i: int) -> dict[int, Override]:
        """Delays what is on its way to the host when a gap begins, and lets that gap go first.

        Copies cannot be interrupted, so an urgent one may be worth an idle lane before it.
        """
        begin_slot = self._problem.gaps[i].first_slot
        overrides = dict(candidate.overrides)
        for swap in timing.swaps:
            if swap.swap_out_slot < begin_slot <= swap.release_slot:
                before = overrides.get(swap.gap, NO_OVERRIDE)
                overrides[swap.gap] = before._replace(out_slot=begin_slot)
        overrides[i] = overrides.get(i, NO_OVERRIDE)._replace(rank=-1)
        return overrides

    def _override(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        """Changes when one gap's copies may be issued."""
        if not candidate.chosen:
            return None
        i = self._pick(candidate, timing)
        begin, end = self._problem.gaps[i].first_slot, self._problem.gaps[i].next_use_slot
        draw_of: dict[str, Callable[[], int]] = {
            "rank": lambda: self._random.choice((-1, 0, 1)),
            "out_slot": lambda: self._random.randrange(begin, end),
            "in_slot": lambda: self._random.randint(begin, end),
            "release_slot": lambda: self._random.choice((*range(begin, end), NEVER)),
        }
        field = self._random.choice((*Override._fields, "way"))
        if field == "way":
            return replace(candidate, overrides=self._make_way(candidate, timing, i))
        before = candidate.overrides.get(i, NO_OVERRIDE)
        changed = before._replace(**{field: draw_of[field]()})
        if changed == before:
            return None
        return replace(candidate, overrides={**candidate.overrides, i: changed})

    def _share(self, candidate: Candidate, timing: Timing) -> Candidate | None:
        """Copies one gap anew, or lets it rely on an earlier copy again."""
        if not candidate.chosen:
            return None
        return replace(candidate, anew=candidate.anew ^ {self._pick(candidate, timing)})

    def _pick(self, candidate: Candidate, timing: Timing) -> int:
        """A chosen gap; half the time one that compute waits for, or that is away then."""
        if timing.waits and self._random.random() < SETTINGS.pick_waited:
            wait = self._random.choice(timing.waits)
            slots = (wait.slot, wait.slot + self._problem.slot_count)
            near = [
                swap.gap
                for swap in timing.swaps
                if swap.gap in candidate.chosen
                and any(swap.swap_out_slot <= t <= swap.await_slot for t in slots)
            ]
            if near:
                return self._random.choice(near)
        return self._random.choice(sorted(candidate.chosen))


@dataclass(frozen=True)
class Answer:
    """A timed candidate.

    Attributes:
        candidate: What the scheduler was given, without gaps whose copies had no use.
        timing: What it made of it.
        cost_us: Stall, plus a little for the bytes moved.
    """

    candidate: Candidate
    timing: Timing
    cost_us: float


class Search:
    """One search over one problem, in stages; each starts from what those before it found."""

    def __init__(
        self,
        problem: Problem,
        deadline: Deadline,
        progress: Progress,
        on_incumbent: OnIncumbent | None = None,
    ) -> None:
        self.problem = problem
        self.deadline = deadline
        self.progress = progress
        self.on_incumbent = on_incumbent
        self.bound_us = 0.0
        self._best: Answer | None = None

    @property
    def best(self) -> Answer:
        """The best answer so far."""
        assert self._best is not None, "one start fits budget and host pool"
        return self._best

    @property
    def has_many_gaps(self) -> bool:
        """Whether one timing takes so long that few can be tried, and one gap hardly matters."""
        return len(self.problem.whole_gaps) > SETTINGS.min_regrouped

    @property
    def good(self) -> bool:
        """Whether there is nothing left worth looking for."""
        stall_us, compute_us = self.best.timing.stall_us, self.problem.compute_us
        return SETTINGS.is_good(stall_us, self.bound_us, compute_us)

    @property
    def perfect(self) -> bool:
        """Whether no answer can wait less, as far as a clock can show."""
        return self.best.timing.stall_us <= self.bound_us + SAME_US

    @property
    def over(self) -> bool:
        """Whether to stop: there is an answer, and it is good, or time is up."""
        return self._best is not None and (self.good or self.deadline.over)

    def start(self, chosen: frozenset[int]) -> None:
        """Finds a first answer, whatever its stall, with a set whose whole swaps fit the host pool,
        each with a copy of its own."""
        pared = without_needless(self.problem, sorted(chosen))
        for first in (pared, chosen):
            for keeps_copies in (True, False):
                # Pared at once: if it does not stall, nothing else will be tried.
                self._pare(self._time(Candidate(first, POLICIES[0], keeps_copies=keeps_copies)))
                if self._best is not None:
                    return

    def take(self, candidate: Candidate) -> None:
        """Times a candidate that was found before, however little time is left."""
        self._time(candidate)

    def try_sets(self, chosen_sets: Iterable[frozenset[int]], policies: Sequence[Policy]) -> None:
        """Times sets of gaps that fit the budget, each with some policies, and then without what
        proved needless.

        In steps of many gaps only the best sets are timed with more than the first policy.
        """
        first, rest = policies, policies[:0]
        if self.has_many_gaps:
            first, rest = policies[:1], policies[1:]
        costs_us: dict[frozenset[int], float] = {}
        for chosen in chosen_sets:
            if self.over:
                return
            costs_us[chosen] = self._try_set(chosen, first)
        best = sorted(costs_us, key=costs_us.__getitem__)[: SETTINGS.raced_sets]
        for chosen in best:
            self._try_set(chosen, rest)

    def _try_set(self, chosen: frozenset[int], policies: Sequence[Policy]) -> float:
        """Returns the least cost of a set with some policies; infinite if none is tried."""
        costs_us = [math.inf]
        for policy in policies:
            if self.over:
                break
            costs_us.append(self._pare(self._time(Candidate(chosen, policy))))
        return min(costs_us)

    def try_starts(self, starts: Iterable[Start]) -> None:
        """Takes starts that meet the budget, unless the best answer is as good as can be.

        Near the bound is not enough here: no published heuristic is to do better.
        """
        taken = iter(starts)
        while not (self.perfect or self.deadline.over):
            start = next(taken, None)
            if start is None:
                return
            if start.timing is None:
                self._time(start.candidate)
            else:
                self._keep(start.candidate, start.timing)

    def bounded(self, bound_us: float) -> None:
        """Takes note of a bound: no answer can wait less."""
        self.bound_us = max(self.bound_us, bound_us)
        self._report()

    def regroup(self, shares: Sequence[float]) -> None:
        """Local search in steps of many gaps: runs of gaps change together.

        Shares are x of the relaxation; empty if it was not solved.
        """
        if not self.has_many_gaps:
            return
        regrouping = Regrouping(self.problem, shares)
        deadline = self.deadline.share(SETTINGS.regroup_share)
        best = self.best
        tries, mark_us = 0, best.cost_us
        while tries < SETTINGS.regroup_tries and not (self.over or deadline.over):
            self.progress("regrouping the plan", tries, SETTINGS.regroup_tries)
            tries += 1
            candidate = regrouping.draw(best.candidate, best.timing)
            if candidate is not None:
                self._time_within(candidate, best.cost_us)
            best = self.best
            if mark_us - best.cost_us > SETTINGS.worth_having * self.problem.compute_us:
                tries, mark_us = 0, best.cost_us

    def improve(self) -> None:
        """Local search; walks sideways, to answers that wait no longer but may move more bytes."""
        neighbours = Neighbours(self.problem)
        gap_count = len(self.problem.gaps)
        tries_wanted = max(SETTINGS.min_tries, SETTINGS.tries_per_gap * gap_count)
        max_tries = min(SETTINGS.max_tries, tries_wanted)
        best = current = self.best
        tries, mark_us = 0, best.cost_us
        while tries < max_tries and not self.over:
            self.progress("improving the plan", tries, max_tries)
            tries += 1
            if tries % SETTINGS.tries_sideways == 0:
                current = best
            candidate = neighbours.draw(current.candidate, current.timing)
            if candidate is None:
                continue
            most_us = max(current.timing.stall_us, best.cost_us)
            answer = self._time_within(candidate, most_us)
            if answer is None:
                continue
            if answer.timing.stall_us <= current.timing.stall_us and self._meets_budgets(answer):
                current = answer
            if self.best.cost_us < best.cost_us:
                current = best = self.best
                if mark_us - best.cost_us > SETTINGS.worth_having * self.problem.compute_us:
                    tries, mark_us = 0, best.cost_us

    def slacken(self) -> None:
        """Fetches earlier where that costs nothing, lest a step that is a little late waits."""
        best = self.best
        for lead in SETTINGS.earlier_leads:
            if lead > best.candidate.policy.lead:
                policy = replace(best.candidate.policy, lead=lead)
                answer = self._time(replace(best.candidate, policy=policy))
                if answer.cost_us <= best.cost_us and self._meets_budgets(answer):
                    self._best = answer
                    return

    def _pare(self, answer: Answer) -> float:
        """Times a timed candidate again without what proved needless; returns the least cost."""
        used = [swap.gap for swap in answer.timing.swaps]
        least_us = answer.cost_us
        for needed in ((), copy_sources(self.problem, used)):
            fewer = without_needless(self.problem, used, needed)
            if fewer != answer.candidate.chosen:
                pared = self._time(replace(answer.candidate, chosen=fewer))
                least_us = min(least_us, pared.cost_us)
        return least_us

    def _time(self, candidate: Candidate) -> Answer:
        """Times a candidate and keeps the answer if it is the best so far."""
        return self._keep(candidate, schedule_swaps(self.problem, candidate))

    def _time_within(self, candidate: Candidate, most_us: float) -> Answer | None:
        """The same; None if compute waits longer, which no answer does that is of any use."""
        beyond_us = 0.0 if self._best is None else self._best.timing.first_beyond_us
        timing = schedule_within(self.problem, candidate, most_us, beyond_us)
        return None if timing is None else self._keep(candidate, timing)

    def _keep(self, candidate: Candidate, timing: Timing) -> Answer:
        kept = replace(candidate, chosen=timing.chosen)
        answer = Answer(kept, timing, self._cost_us(timing))
        better = self._best is None or answer.cost_us < self._best.cost_us
        if better and self._meets_budgets(answer):
            self._best = answer
            self._report()
        return answer

    def _cost_us(self, timing: Timing) -> float:
        d2h_us, h2d_us = self.problem.d2h_us, self.problem.h2d_us
        out_us = sum(d2h_us[swap.gap] for swap in timing.swaps if not swap.clean)
        copies_us = out_us + sum(h2d_us[swap.gap] for swap in timing.swaps)
        return timing.stall_us + SETTINGS.bytes_weight * copies_us

    def _meets_budgets(self, answer: Answer) -> bool:
        swaps = answer.timing.swaps
        if max(held_bytes(self.problem, swaps)) > self.problem.budget_bytes:
            return False
        return fits_host(self.problem, answer.candidate.chosen, swaps)

    def _report(self) -> None:
        if self.on_incumbent is not None and self._best is not None:
            stall_us = self.best.timing.stall_us
            self.on_incumbent(Incumbent(stall_us, self.bound_us, self.problem.compute_us))
