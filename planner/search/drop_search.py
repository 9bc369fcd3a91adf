"""Searches for what to drop and rebuild; what is left is for swaps.

What is cheap to make again for its bytes is a start, and what there is if time is short. Then the
joint relaxation says what it would drop (`planner.ilp.model`, rows (16) to (19)). Rounded, that
costs more than it thinks: inputs must be there, and what is made on the way takes memory. So the
step is rewritten, the relaxation of what is left says what more to drop, and so on until it has
nothing to add. From the best of these a local search exchanges single storages; where that ends,
another one begins. In steps of many gaps, where that takes too long, only what the relaxation drops
in parts changes sides. Each set is judged by the time it runs again and by what compute waits in
the rewritten step, as the list scheduler times a few sets of swaps.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from planner.ilp.deadline import Deadline, Incumbent, OnIncumbent, SolverName
from planner.ilp.solver import StallBound, relaxed_bound
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import Offers, offers_of
from planner.recompute.rewriting import Dropped, Rebuilding, rebuildings, recompute_us
from planner.recompute.rewritten_problem import ProblemRewriter
from planner.search.candidate import QUICK_POLICIES, Candidate, Policy, with_yielding
from planner.search.list_scheduler import schedule_within
from planner.search.starts import copy_sources, without_needless
from profiles.schema.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A set of gaps in which storages are dropped, and what becomes of the step.

    Attributes:
        dropped: The gaps.
        found: The recipes that end them.
        problem: What is left: swaps, in the step that runs those recipes.
        recompute_us: What they take.
        stall_us: What compute waits, as far as that was looked into; infinite if no set of swaps
            makes that step fit.
        over_bytes: What is missing then, on the device or on the host; 0 if nothing is.
        candidate: The swaps that wait so long; None if none fit, or none are needed.
        first_beyond_us: So much longer a first step of theirs waits.
    """

    dropped: Dropped
    found: tuple[Rebuilding, ...]
    problem: Problem
    recompute_us: float
    stall_us: float
    over_bytes: int
    candidate: Candidate | None
    first_beyond_us: float

    @property
    def cost(self) -> tuple[float, int]:
        """What is compared: time beyond the ops themselves; if it does not fit, bytes over."""
        return self.recompute_us + self.stall_us, self.over_bytes

    @property
    def swapped(self) -> frozenset[int]:
        """Ids of the storages that are swapped."""
        if self.candidate is None:
            return frozenset()
        return frozenset(self.problem.gaps[i].storage for i in self.candidate.chosen)


Descend = Callable[[Deadline], None]
"""Goes from some draft to better ones, until a deadline at most."""


class DropSearch:
    """One search over what one step drops."""

    def __init__(
        self,
        rewriter: ProblemRewriter,
        offers: Offers,
        deadline: Deadline,
        progress: Progress,
        on_incumbent: OnIncumbent | None = None,
    ) -> None:
        """Begins a search with nothing dropped.

        Args:
            rewriter: Makes the problems of sets.
            offers: What may be dropped.
            deadline: When to stop.
            progress: Called with how far it is.
            on_incumbent: Called with every better set.
        """
        self._rewriter = rewriter
        self._offered = offers.cheapest_first(rewriter.problem.whole_gaps)
        self._in_order = sorted(self._offered, key=_by_place)
        self._deadline = deadline
        self._progress = progress
        self._on_incumbent = on_incumbent
        self._chance = random.Random(SETTINGS.seed)
        self._bound_us = 0.0
        self._shares: dict[Gap, float] = {}
        self._judged: dict[Dropped, Draft | None] = {}
        self._given_up_us: dict[Dropped, float] = {}
        """By set that was given up, how long it might have taken."""
        nothing = self.judge(frozenset())
        assert nothing is not None
        self.best = nothing

    @property
    def good(self) -> bool:
        """Whether there is nothing left worth looking for."""
        compute_us = self._rewriter.problem.compute_us
        return SETTINGS.is_good(self.best.cost[0], self._bound_us, compute_us)

    def is_near(self, share: float = SETTINGS.restart_gap) -> bool:
        """Whether less than a share of the step may be left to gain."""
        left_us = self.best.cost[0] - self._bound_us
        return left_us <= share * self._rewriter.problem.compute_us

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.good or self._deadline.over

    def bounded(self, bound: StallBound) -> None:
        """Takes note of a bound on recompute and stall together, and of what it would swap."""
        self._bound_us = max(self._bound_us, bound.stall_us)
        if bound.shares:
            gaps = self._rewriter.problem.whole_gaps
            self._shares = dict(zip(gaps, bound.shares, strict=True))
            # What was judged without that is judged anew.
            self._judged.clear()
            self._given_up_us.clear()
            drafts = [self.judge(dropped) for dropped in (frozenset(), self.best.dropped)]
            self.best = min((d for d in drafts if d is not None), key=lambda draft: draft.cost)

    def take_cheapest(self) -> None:
        """Tries what is cheapest to run again for its bytes, up to some shares of all of them."""
        sums_bytes = list(accumulate(gap.size_bytes for gap in self._offered))
        for share in SETTINGS.cheapest_shares:
            if self.over or not sums_bytes:
                return
            self._take(frozenset(self._offered[: bisect_left(sums_bytes, share * sums_bytes[-1])]))

    def take(self, sets: Iterable[Dropped]) -> None:
        """Tries sets until one is good, each without what is not offered.

        Where they come from there is an eye on the time.
        """
        offered = frozenset(self._offered)
        for dropped in sets:
            self._take(dropped & offered)
            if self.good:
                return

    def round(self, shares: Mapping[int, float], solver: SolverName) -> None:
        """Goes from what a relaxation would drop to sets, adding to each what is still missing.

        Args:
            shares: How much of each gap of the problem it drops.
            solver: Which solver.

        Raises:
            SolverError: The solver is missing or failed.
        """
        gaps = self._rewriter.problem.whole_gaps
        deadline = self._deadline.share(SETTINGS.round_share)
        rounded = {share: _above(share, shares, gaps) for share in SETTINGS.drop_shares}
        for dropped in rounded.values():
            self._take(dropped)
        for share, dropped in rounded.items():
            for _ in range(SETTINGS.drop_rounds):
                draft = self._take(dropped)
                if draft is None or self.over or deadline.over:
                    break
                more = self._missing(draft, share, solver)
                if not more:
                    break
                dropped |= more

    def settle(self, shares: Mapping[int, float], deadline: Deadline) -> None:
        """Has what a relaxation drops in parts change sides, one after the other, most of it first,
        as often as that gains something.

        Args:
            shares: How much of each gap of the problem it drops.
            deadline: When to stop.
        """
        gaps, least = self._rewriter.problem.whole_gaps, min(SETTINGS.drop_shares)
        in_parts = [i for i, share in shares.items() if least < share < 1 - least]
        in_parts.sort(key=lambda i: (-shares[i], i))
        gains = True
        while gains:
            mark_us = self.best.cost[0]
            for i in in_parts:
                if self.over or deadline.over:
                    return
                self._take(self.best.dropped ^ {gaps[i]}, self.best.cost[0])
            gains = mark_us - self.best.cost[0] > self._worth_us

    def improve(
        self,
        shares: Mapping[int, float],
        deadline: Deadline | None = None,
        max_starts: int = SETTINGS.drop_starts,
    ) -> None:
        """Local search from what a solution of the model drops for the most part, and from the
        best; then, while that is far from the bound, from that solution again and again, each time
        by another path, or without one from near the best.

        Args:
            shares: How much of each gap of the problem the solution drops.
            deadline: When to stop; that of the whole search if None.
            max_starts: So often in a row it begins again without a gain.
        """
        deadline = deadline or self._deadline
        if not self._offered:
            return
        solution = self._take(_above(0.5, shares, self._rewriter.problem.whole_gaps))
        if solution is not None and solution.dropped:
            again: Descend = partial(self._descend, solution, max_tries=SETTINGS.drop_tries)
            again(deadline.share(SETTINGS.first_start_share))
        else:
            again = self._descend_near_best
        self._descend(self.best, deadline, SETTINGS.drop_tries)
        starts, mark_us = 0, self.best.cost[0]
        while starts < max_starts and not (self.is_near() or self.over or deadline.over):
            starts += 1
            again(deadline)
            if mark_us - self.best.cost[0] > self._worth_us:
                starts, mark_us = 0, self.best.cost[0]

    @property
    def _worth_us(self) -> float:
        return SETTINGS.worth_having * self._rewriter.problem.compute_us

    def _descend(self, current: Draft, deadline: Deadline, max_tries: int) -> None:
        """Drops more, less or others; walks sideways to sets that cost the same."""
        chance = self._chance
        neighbours = _Neighbours(self._in_order, current, chance)
        tries, mark_us = 0, current.cost[0]
        while tries < max_tries and not (self.over or deadline.over):
            self._progress("choosing what to recompute", tries, max_tries)
            tries += 1
            dropped = neighbours.draw(chance.choice((1, 1, 2, 3)))
            draft = self._take(dropped, current.cost[0])
            if draft is not None and draft.cost <= current.cost:
                current = draft
                neighbours = _Neighbours(self._in_order, current, chance)
            if mark_us - current.cost[0] > self._worth_us:
                tries, mark_us = 0, current.cost[0]

    def _descend_near_best(self, deadline: Deadline) -> None:
        """Descends from a draft near the best one."""
        self._descend(self._kicked(), deadline, SETTINGS.tries_after_kick)

    def _kicked(self) -> Draft:
        """Returns a draft some moves from the best one, and not much worse; that one if none is."""
        chance = self._chance
        compute_us = self._rewriter.problem.compute_us
        most_us = SETTINGS.near(self.best.cost[0], compute_us, SETTINGS.kick_loss)
        neighbours = _Neighbours(self._in_order, self.best, chance)
        for _ in range(SETTINGS.tries_of_kick):
            draft = self._take(neighbours.draw(chance.choice((3, 4, 5, 6))), most_us)
            if draft is not None and not draft.over_bytes:
                return draft
        return self.best

    def judge(self, dropped: Dropped, most_us: float = math.inf) -> Draft | None:
        """Returns what becomes of a step that drops a set of gaps.

        None if it cannot, or if it takes longer than `most_us` beyond the step's own ops, as far as
        that was looked into.
        """
        if dropped not in self._judged and self._given_up_us.get(dropped, -1.0) < most_us:
            found = rebuildings(self._rewriter.effects, dropped)
            draft = None if found is None else self._judge(dropped, found, most_us)
            if found is None or draft is not None:
                self._judged[dropped] = draft
            else:
                self._given_up_us[dropped] = most_us
        return self._judged.get(dropped)

    def _take(self, dropped: Dropped, most_us: float = math.inf) -> Draft | None:
        draft = self.judge(dropped, most_us)
        if draft is not None and draft.cost < self.best.cost:
            self.best = draft
            if self._on_incumbent is not None and not draft.over_bytes:
                compute_us = self._rewriter.problem.compute_us
                self._on_incumbent(
                    Incumbent(draft.stall_us, self._bound_us, compute_us, draft.recompute_us)
                )
        return draft

    def _judge(
        self, dropped: Dropped, found: tuple[Rebuilding, ...], most_us: float
    ) -> Draft | None:
        again_us = sum(recompute_us(self._rewriter.effects.profile, found))
        if again_us > most_us:
            return None
        problem = self._rewriter.without(found)
        longer_us = self.best.first_beyond_us if most_us < math.inf else 0.0
        policies = self._policies(most_us)
        quick = _quick_swaps(problem, self._shares, policies, most_us - again_us, longer_us)
        if quick is None:
            return None
        return Draft(
            dropped=dropped,
            found=found,
            problem=problem,
            recompute_us=problem.compute_us - self._rewriter.problem.compute_us,
            stall_us=quick.stall_us,
            over_bytes=quick.over_bytes,
            candidate=quick.candidate,
            first_beyond_us=quick.first_beyond_us,
        )

    def _policies(self, most_us: float) -> tuple[Policy, ...]:
        """Those that judge a set: in steps of many gaps the best one's, if it is to be better."""
        problem = self._rewriter.problem
        is_large = len(problem.whole_gaps) > SETTINGS.min_regrouped
        if is_large and most_us < math.inf and self.best.candidate is not None:
            return (self.best.candidate.policy,)
        return with_yielding(QUICK_POLICIES, problem.link)[: SETTINGS.drop_policies]

    def _missing(self, draft: Draft, share: float, solver: SolverName) -> Dropped:
        """What the relaxation of a rewritten step would drop besides."""
        problem = draft.problem
        if problem.fits(()) or not problem.whole_gaps:
            return frozenset()
        busy, offered = {gap.storage for gap in draft.dropped}, frozenset(self._offered)
        offers = offers_of(self._rewriter.effects, problem).only(
            i
            for i, gap in enumerate(problem.whole_gaps)
            if gap in offered and gap.storage not in busy
        )
        deadline = self._deadline.share(SETTINGS.stage_share)
        relaxed = relaxed_bound(problem, solver, deadline, offers)
        return _above(share, relaxed.dropped, problem.whole_gaps)


class _Neighbours:
    """Draws sets near what a draft drops."""

    def __init__(self, offered: Sequence[Gap], draft: Draft, chance: random.Random) -> None:
        self._draft = draft
        self._chance = chance
        self._offered = offered
        self._sizes = [gap.size_bytes for gap in offered]
        swapped = draft.swapped
        self._swapped = [gap for gap in offered if gap.storage in swapped]

    def draw(self, moves: int) -> Dropped:
        """Returns what the draft drops, and more, less or others."""
        dropped = set(self._draft.dropped)
        for _ in range(moves):
            among = sorted(dropped, key=_by_place)
            take_out = among and self._chance.random() < SETTINGS.take_out
            dropped ^= {self._chance.choice(among) if take_out else self._one()}
        return frozenset(dropped)

    def _one(self) -> Gap:
        """One of what is offered: half the time one that is swapped now, else a large one."""
        if self._swapped and self._chance.random() < SETTINGS.pick_swapped:
            return self._chance.choice(self._swapped)
        return self._chance.choices(self._offered, self._sizes)[0]


def _by_place(gap: Gap) -> tuple[int, str]:
    return gap.first_slot, gap.name


def _above(share: float, shares: Mapping[int, float], gaps: tuple[Gap, ...]) -> Dropped:
    return frozenset(gaps[i] for i, dropped in shares.items() if dropped > share)


class _Quick(NamedTuple):
    """What a few sets of swaps come to; see `Draft`."""

    stall_us: float
    over_bytes: int
    candidate: Candidate | None = None
    first_beyond_us: float = 0.0


def _quick_swaps(
    problem: Problem,
    shares: Mapping[Gap, float],
    policies: Sequence[Policy],
    most_us: float,
    first_beyond_us: float,
) -> _Quick | None:
    """Returns the best of a few sets of swaps by some policies; if none fits, what is missing.

    None if all wait for much longer than `most_us`, or in their first step than that and
    `first_beyond_us`. Shares are what a relaxation uses of gaps of the step with nothing dropped,
    if there was one.
    """
    if problem.fits(()):
        return _Quick(0.0, 0)
    over_bytes = problem.least_budget_bytes(problem.swappable) - problem.budget_bytes
    if over_bytes > 0:
        return _Quick(math.inf, over_bytes)
    first, *rest = policies
    sets = _quick_sets(problem, shares)
    hosted = [chosen for chosen in sets if problem.whole_fits_host(chosen)]
    if not hosted:
        return _Quick(math.inf, problem.whole_pool_bytes(sets[-1]))
    # Policies differ less than sets do.
    near_us = SETTINGS.near(most_us, problem.compute_us, SETTINGS.policy_gain)
    best = _quickest(
        problem, (Candidate(chosen, first) for chosen in hosted), near_us, first_beyond_us
    )
    if best is None:
        return None
    assert best.candidate is not None
    others = (replace(best.candidate, policy=policy) for policy in rest)
    longer_us = max(first_beyond_us, best.first_beyond_us)
    return _quickest(problem, others, best.stall_us, longer_us) or best


def _quick_sets(problem: Problem, shares: Mapping[Gap, float]) -> list[frozenset[int]]:
    """A few sets that fit the budget, each once, without what they do not need."""
    keys = [problem.free_us, problem.size_times_idle]
    if shares:
        keys.append(lambda i: shares.get(problem.gaps[i], 0.0))
    fewest = (
        problem.fewest_that_fit(sorted(problem.swappable, key=key, reverse=True)) for key in keys
    )
    sets = (without_needless(problem, few, copy_sources(problem, few)) for few in fewest)
    return list(dict.fromkeys(sets))


def _quickest(
    problem: Problem, candidates: Iterable[Candidate], most_us: float, first_beyond_us: float
) -> _Quick | None:
    """Returns the first of those that wait least; None if all wait longer than `most_us`."""
    best = None
    for candidate in candidates:
        timing = schedule_within(problem, candidate, most_us, first_beyond_us)
        if timing is not None and (best is None or timing.stall_us < best.stall_us):
            best = _Quick(timing.stall_us, 0, candidate, timing.first_beyond_us)
            most_us = timing.stall_us
    return best
