"""Where the search over what is dropped starts, and that no baseline is ahead of where it ends."""

import pytest

from planner.heuristics.recomputing.catalog import RECOMPUTING
from planner.heuristics.recomputing.choice import Recomputing
from planner.ilp.deadline import Deadline
from planner.plan.plan import Boundary
from planner.problem.problem import problem_of
from planner.recompute.offers import offers_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewritten_problem import ProblemRewriter
from planner.search.drop_search import DropSearch
from planner.search.starts import published_drops_of
from planner.solving import solve
from profiles.schema.progress import silent
from tests.support.commands import PATIENCE_S
from tests.support.recompute.drops import every_gap
from tests.support.recompute.forward_backward import asked, never, two_blocks

PROFILE = two_blocks()


def test_a_set_is_taken_without_what_is_not_offered() -> None:
    # y has 2 bytes; without it, x and z are 8 less, for 20 us. Nothing else fits.
    problem = problem_of(
        PROFILE,
        budget_bytes=12,
        link=PROFILE.link,
        host_budget_bytes=0,
        min_size_bytes=3,
        boundary=Boundary.RESIDENT,
    )
    effects, deadline = StepEffects(PROFILE), Deadline.within(PATIENCE_S)
    offers = offers_of(effects, problem)
    search = DropSearch(ProblemRewriter(effects, problem), offers, deadline, silent)
    gaps = {gap.name: gap for gap in every_gap(PROFILE, Boundary.RESIDENT).whole_gaps}
    search.take([frozenset({gaps["x"]}), frozenset(gaps.values()), frozenset({gaps["z"]})])
    assert {gap.name for gap in search.best.dropped} == {"x", "z"}
    assert search.best.cost == (20, 0)


def test_a_set_that_was_given_up_is_judged_once_it_may_take_longer() -> None:
    problem = problem_of(
        PROFILE,
        budget_bytes=12,
        link=PROFILE.link,
        host_budget_bytes=0,
        min_size_bytes=3,
        boundary=Boundary.RESIDENT,
    )
    effects, deadline = StepEffects(PROFILE), Deadline.within(PATIENCE_S)
    offers = offers_of(effects, problem)
    search = DropSearch(ProblemRewriter(effects, problem), offers, deadline, silent)
    both = frozenset(problem.whole_gaps[i] for i in offers.gaps)
    assert search.judge(both, 19) is None
    draft = search.judge(both, 20)
    assert draft is not None
    assert draft.cost == (20, 0)
    assert search.judge(both, 19) is draft


def test_published_sets_are_gaps_of_the_step_as_it_is() -> None:
    problem = every_gap(PROFILE, Boundary.RESIDENT)
    at = problem_of(PROFILE, budget_bytes=12, link=PROFILE.link, min_size_bytes=1)
    found = [{gap.name for gap in drops} for drops in published_drops_of(PROFILE, at, never)]
    assert {"x", "z"} in found
    assert len(found) == len({frozenset(names) for names in found})
    for drops in published_drops_of(PROFILE, at, never):
        assert drops <= set(problem.whole_gaps)
    assert [*published_drops_of(PROFILE, at, lambda: True)] == []


@pytest.mark.parametrize("baseline", RECOMPUTING, ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("budget_bytes", [11, 12, 14, 16, 18])
def test_no_baseline_that_recomputes_is_ahead(baseline: Recomputing, budget_bytes: int) -> None:
    theirs = baseline.rule(asked(PROFILE, budget_bytes), never)
    made = solve(
        PROFILE,
        budget_bytes=max(theirs.peak_bytes, budget_bytes),
        min_size_bytes=1,
        boundary=Boundary.RESIDENT,
        time_limit_s=PATIENCE_S,
    )
    about = made.certificate
    ours_us = about.compute_us + about.recompute_us + about.simulated_stall_us
    assert ours_us <= theirs.step_us + 1e-6
