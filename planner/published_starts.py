"""Starts of the search that published heuristics give: what they move, and when.

Our own scheduler times what a heuristic chose, once held to the heuristic's anchors and once to the
slots of its copies back alone, with policies of ours. So a plan is hardly ever slower than the best
of these heuristics, and mostly faster: the search goes on from there.
"""

from collections.abc import Iterator
from dataclasses import replace

from planner.baselines.case import Case
from planner.baselines.ruled_trip import Ruled
from planner.baselines.step_view import StepView
from planner.baselines.swapadvisor import SWAPADVISOR
from planner.baselines.teraio import G10, TERAIO
from planner.draft import QUICK_POLICIES, Draft, Hold
from planner.problem import Problem
from profiles.profile import Profile

HEURISTICS = (G10, TERAIO, SWAPADVISOR)
"""Those that came first among the baselines most often, and take a second or less."""


def published_drafts(profile: Profile, problem: Problem) -> Iterator[Draft]:
    """Yields drafts that meet the budget.

    Args:
        profile: The step.
        problem: The problem made of it.
    """
    # Whole gaps come first, so their indices are the same without the parts.
    case = Case(StepView(profile), replace(problem, part_gaps=()))
    for heuristic in HEURISTICS:
        ruled = heuristic.rule(case)
        if problem.fits({trip.gap for trip in ruled.trips}):
            yield from drafts_of(ruled)


def drafts_of(ruled: Ruled) -> Iterator[Draft]:
    """Yields what our scheduler may make of what a heuristic does with a step."""
    chosen = frozenset(trip.gap for trip in ruled.trips)
    as_published = {
        trip.gap: Hold(rank, trip.swap_out_slot, trip.swap_in_slot, trip.release_slot)
        for rank, trip in enumerate(ruled.trips)
    }
    yield Draft(chosen, QUICK_POLICIES[0], as_published)
    back_as_published = {trip.gap: Hold(in_slot=trip.swap_in_slot) for trip in ruled.trips}
    for policy in QUICK_POLICIES:
        yield Draft(chosen, policy, back_as_published)
