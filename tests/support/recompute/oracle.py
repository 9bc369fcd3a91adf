"""The least time beyond the ops that any plan can reach which drops, rebuilds and swaps.

Every set of gaps that is offered is dropped; each rewrites the step, and the exact oracle of swaps
(`tests.support.planning.oracle`) says what waits in it at least. Recipes and rewriting are the
planner's own: they have tests of theirs, against a replay over symbols.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from planner.plan.plan import Boundary
from planner.problem.gaps import Gap
from planner.problem.problem import Problem, problem_of
from planner.recompute.offers import Offers, offers_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import RecomputedStep, rebuildings, recomputed
from profiles.schema.profile import Profile
from tests.support.planning.oracle import idles, least_stall_by_search, smallest_budget_bytes
from tests.support.planning.strategies import peak_bytes
from tests.support.recompute.op_steps import op_step


class RecomputeJob(NamedTuple):
    """A step, a budget that swaps can meet, and what else is asked."""

    profile: Profile
    budget_bytes: int
    boundary: Boundary

    def problem(self) -> Problem:
        return problem_of(
            self.profile,
            budget_bytes=self.budget_bytes,
            link=self.profile.link,
            min_size_bytes=1,
            boundary=self.boundary,
        )

    def offers(self) -> Offers:
        return offers_of(StepEffects(self.profile), self.problem())

    def least_swap_us(self) -> float:
        """What waits at least if nothing is dropped."""
        least_us = least_stall_by_search(self.profile, self.budget_bytes, boundary=self.boundary)
        assert least_us is not None
        return least_us

    def least_beyond_us(self) -> float:
        """The least recompute and stall together."""
        best_us = self.least_swap_us()
        steps = sorted(self._steps(), key=lambda step: sum(step.recompute_us))
        for step in steps:
            recompute_us = sum(step.recompute_us)
            if recompute_us >= best_us:
                break
            stall_us = least_stall_by_search(
                step.profile, self.budget_bytes, boundary=self.boundary
            )
            if stall_us is not None:
                best_us = min(best_us, recompute_us + stall_us)
        return best_us

    def _steps(self) -> Iterator[RecomputedStep]:
        """The step with every set of what is offered dropped."""
        effects, problem = StepEffects(self.profile), self.problem()
        gaps = [problem.whole_gaps[i] for i in sorted(self.offers().gaps)]
        for dropped in _subsets(gaps):
            found = rebuildings(effects, dropped)
            if found is not None:
                yield recomputed(effects, found)


def _subsets(gaps: Sequence[Gap]) -> Iterator[tuple[Gap, ...]]:
    for size in range(1, len(gaps) + 1):
        yield from combinations(gaps, size)


MOST_OFFERED, MOST_IDLE = 5, 6
"""So many gaps can be tried in every way."""


def recompute_jobs(seeds: range) -> Iterator[tuple[int, RecomputeJob]]:
    """Yields jobs small enough for the oracle, in which something is offered, with their seeds."""
    for seed in seeds:
        rng = random.Random(seed)
        profile = op_step(seed, most_slots=7, whole=True, traits_chance=0.0)
        boundary = rng.choice([*Boundary])
        smallest, peak = smallest_budget_bytes(profile, boundary), peak_bytes(profile)
        if smallest >= peak or len(idles(profile, boundary)) > MOST_IDLE:
            continue
        budget_bytes = rng.randint(smallest, peak - 1)
        job = RecomputeJob(profile, budget_bytes, boundary)
        if 0 < len(job.offers().gaps) <= MOST_OFFERED:
            yield seed, job
