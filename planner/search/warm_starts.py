"""Starts of the search that published heuristics give: what they move, and when.

Each is taken once as it is published, but for awaits, which wait until the next use. Then our own
scheduler times what the heuristic chose, once held to its anchors and once to the slots of its
copies back alone, with policies of ours. So no plan is slower than the best of these heuristics,
and most are faster: the search goes on from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from planner.heuristics.heuristic import held_bytes, timeline
from planner.heuristics.step_view import StepView
from planner.heuristics.swapadvisor import SWAPADVISOR
from planner.heuristics.task import Task
from planner.heuristics.teraio import G10, TERAIO
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap
from planner.search.candidate import QUICK_POLICIES, Draft, Hold, Timing, Wait
from profiles.schema.profile import Profile

HEURISTICS = (G10, TERAIO, SWAPADVISOR)
"""Those that came first among the baselines most often, and take a second or less."""


class Start(NamedTuple):
    """Where the search may start.

    Attributes:
        draft: It meets the budget.
        timing: When it moves what; None to leave that to our scheduler.
    """

    draft: Draft
    timing: Timing | None


def published_starts(profile: Profile, problem: Problem) -> Iterator[Start]:
    """Yields starts that meet the budget.

    Args:
        profile: The step.
        problem: The problem made of it.
    """
    # Whole gaps come first, so their indices are the same without the parts.
    task = Task(StepView(profile), replace(problem, part_gaps=()))
    for heuristic in HEURISTICS:
        published = heuristic.swaps(task)
        if max(held_bytes(problem, published)) <= problem.budget_bytes:
            yield Start(_as_published(published), published_timing(problem, published))
            for draft in drafts_of(published):
                yield Start(draft, None)


def published_timing(problem: Problem, published: Sequence[TimedSwap]) -> Timing:
    """Returns what a heuristic does, simulated, with awaits as late as they can be."""
    late = tuple(
        trip._replace(await_slot=problem.gaps[trip.gap].next_use_slot) for trip in published
    )
    stalls_us = timeline(problem, late, problem.engines).stall_us
    waited = _waited_for(problem, late)
    return Timing(
        chosen=frozenset(trip.gap for trip in late),
        trips=late,
        waits=tuple(
            Wait(t, waited[t], stall_us) for t, stall_us in enumerate(stalls_us) if stall_us > 0
        ),
    )


def drafts_of(published: Sequence[TimedSwap]) -> Iterator[Draft]:
    """Yields what our scheduler may make of what a heuristic does with a step."""
    chosen = frozenset(trip.gap for trip in published)
    yield _as_published(published)
    back_as_published = {trip.gap: Hold(in_slot=trip.swap_in_slot) for trip in published}
    for policy in QUICK_POLICIES:
        yield Draft(chosen, policy, back_as_published)


def _as_published(published: Sequence[TimedSwap]) -> Draft:
    holds = {
        trip.gap: Hold(rank, trip.swap_out_slot, trip.swap_in_slot, trip.release_slot)
        for rank, trip in enumerate(published)
    }
    return Draft(frozenset(holds), QUICK_POLICIES[0], holds)


def _waited_for(problem: Problem, trips: tuple[TimedSwap, ...]) -> dict[int, int]:
    """For each slot whose anchor may wait, a gap whose copy is waited for there."""
    slots = {trip.release_slot % problem.slot_count: trip.gap for trip in trips}
    return slots | {trip.await_slot % problem.slot_count: trip.gap for trip in trips}
