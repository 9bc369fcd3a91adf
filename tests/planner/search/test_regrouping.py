"""Runs of gaps that change together, in steps of many."""

import pytest

from planner.problem.problem import Problem
from planner.search.candidate import QUICK_POLICIES, Candidate
from planner.search.list_scheduler import schedule_swaps
from planner.search.regrouping import Regrouping
from planner.search.starts import groups_to_leave, without_needless
from tests.support.planning.one_swap import problem_of
from tests.support.planning.toys import activation, fixed, toy, transformer_like


def job(share: float) -> Problem:
    """A step with a budget between the smallest and its peak."""
    profile = transformer_like(12)
    hardest = problem_of(profile, 1)
    smallest_bytes = hardest.least_budget_bytes(hardest.whole_set)
    most_bytes = profile.peak_bytes - smallest_bytes
    return problem_of(profile, smallest_bytes + int(share * most_bytes))


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_every_neighbour_fits_and_needs_all_it_moves(share: float) -> None:
    problem = job(share)
    chosen = without_needless(problem, sorted(problem.whole_set))
    candidate = Candidate(chosen, QUICK_POLICIES[0])
    timing = schedule_swaps(problem, candidate)
    drawn = []
    for _ in range(2):
        regrouping = Regrouping(problem, ())
        drawn.append([regrouping.draw(candidate, timing) for _ in range(50)])
    assert drawn[0] == drawn[1]
    neighbours = [one for one in drawn[0] if one is not None]
    assert len({one.chosen for one in neighbours}) > 5
    for neighbour in neighbours:
        assert neighbour.chosen != chosen
        assert problem.fits(neighbour.chosen)


def test_large_storages_used_together_are_one_group() -> None:
    # a and b end in slot 6, b and c in slot 8; e is small.
    storages = [
        activation("a", 30, 0, 6),
        activation("b", 20, 1, 6, 8),
        activation("c", 40, 2, 8),
        activation("e", 1, 3, 8),
        fixed("w", 60, 4),
    ]
    problem = problem_of(toy(*[1] * 9, storages=storages), 90)
    found = [sorted(problem.gaps[i].name for i in group) for group in groups_to_leave(problem)]
    assert [sorted(set(names)) for names in found] == [["b", "c"], ["a", "b"]]
