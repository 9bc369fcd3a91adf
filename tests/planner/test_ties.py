"""Copies and slots of commensurate times, which end together but for rounding."""

import pytest

from planner.ilp.deadline import Deadline, SolverName
from planner.plan.lanes import SAME_US
from planner.plan.plan import Boundary
from planner.problem.problem import Problem, problem_of
from planner.problem.timed_swap import held_bytes
from planner.search import list_scheduler as timing
from planner.search.candidate import POLICIES, YIELDING_POLICIES, Candidate, Timing
from planner.search.list_scheduler import schedule_swaps
from planner.search.local_search import Search
from planner.smallest_budget import widest_set
from planner.solving import solve
from profiles.schema.profile import Profile
from profiles.schema.progress import silent
from tests.support.planning.invariants import check_plan
from tests.support.planning.oracle import smallest_budget_bytes
from tests.support.planning.strategies import peak_bytes
from tests.support.planning.toys import toy_link, transformer_like

TIED = [(0.1, 2, 0.3), (0.7, 1, 0.1), (0.7, 2, 0.3), (1.1, 2, 0.3)]
"""Unit of time, slots in a unit, and share of the way from the smallest budget to the peak: with
each of these steps that repeat were timed differently by rounding, and together broke the budget.
"""


def tied_step(unit_us: float, slots_in_unit: int) -> Profile:
    """A step whose slots all take multiples of what a byte's copy takes, or of half of that."""
    whole = transformer_like(4, size_bytes=12)
    shrunk = unit_us / slots_in_unit
    slots = tuple(
        slot.model_copy(update={"duration_us": slot.duration_us * shrunk}) for slot in whole.slots
    )
    link = toy_link(1 / unit_us, 1 / unit_us)
    return whole.model_copy(update={"slots": slots, "link": link})


def tied_budget_bytes(profile: Profile, share: float) -> int:
    smallest = smallest_budget_bytes(profile)
    return smallest + int(share * (peak_bytes(profile) - smallest))


def tied_problem(unit_us: float, slots_in_unit: int, share: float) -> Problem:
    profile = tied_step(unit_us, slots_in_unit)
    return problem_of(
        profile,
        budget_bytes=tied_budget_bytes(profile, share),
        link=profile.link,
        host_budget_bytes=None,
        min_size_bytes=1,
        boundary=Boundary.PERIODIC,
    )


@pytest.mark.parametrize("same_us", [SAME_US, 0.0])
@pytest.mark.parametrize("tied", TIED)
def test_every_timing_meets_the_budget(
    monkeypatch: pytest.MonkeyPatch, tied: tuple[float, int, float], same_us: float
) -> None:
    """Whether ties are seen or not: where they are not, a shut boundary makes all steps alike."""
    monkeypatch.setattr(timing, "SAME_US", same_us)
    problem = tied_problem(*tied)
    for policy in (*POLICIES, *YIELDING_POLICIES):
        found = schedule_swaps(problem, Candidate(problem.whole_set, policy))
        assert max(held_bytes(problem, found.swaps)) <= problem.budget_bytes


def test_steps_settle_though_times_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary need not be shut for the sake of rounding; with most policies it was."""
    shut: set[bool] = set()
    walk = timing._Walk.step

    def noted(self: timing._Walk, most_us: float) -> bool:
        shut.add(self.shut)
        return walk(self, most_us)

    monkeypatch.setattr(timing._Walk, "step", noted)
    problem = tied_problem(0.7, 1, 0.1)
    for policy in (*POLICIES, *YIELDING_POLICIES):
        schedule_swaps(problem, Candidate(problem.whole_set, policy))
    assert shut == {False}


@pytest.mark.parametrize("tied", TIED)
def test_plans_of_tied_steps(tied: tuple[float, int, float]) -> None:
    unit_us, slots_in_unit, share = tied
    profile = tied_step(unit_us, slots_in_unit)
    check_plan(
        solve(profile, budget_bytes=tied_budget_bytes(profile, share), min_size_bytes=1), profile
    )


def test_the_search_keeps_no_timing_over_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scheduler makes of a candidate, the search looks at what its swaps leave."""
    problem = tied_problem(1.1, 2, 0.3)
    search = Search(problem, Deadline.within(600), silent)
    search.start(widest_set(problem, SolverName.HIGHS).chosen)
    best = search.best
    for name in ("schedule_swaps", "schedule_within"):
        monkeypatch.setattr(
            f"planner.search.local_search.{name}",
            lambda problem, candidate, *_: Timing(candidate.chosen, (), ()),
        )
    search.try_sets([problem.whole_set], POLICIES[:2])
    search.improve()
    search.slacken()
    assert search.best is best
