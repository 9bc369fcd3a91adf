"""What is left to swap, found without the rewritten profile and from it: the same problem."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plan.plan import Boundary
from planner.problem.gaps import Gap
from planner.problem.problem import Problem, problem_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, recomputed
from planner.recompute.rewritten_problem import ProblemRewriter
from profiles import Profile
from tests.support.recompute.drops import network_step, offered_gaps, random_drops, rebuilt
from tests.support.recompute.op_steps import op_steps

seeds = st.integers(0, 2**16)


def check_both_ways(
    profile: Profile, effects: StepEffects, found: tuple[Rebuilding, ...], asked: dict[str, Any]
) -> None:
    step = recomputed(effects, found)
    quick = ProblemRewriter(effects, problem_of(profile, **asked)).without(found)
    slow = problem_of(step.profile, **asked)
    assert quick.durations_us == pytest.approx(slow.durations_us)
    assert quick.resident_bytes == slow.resident_bytes
    assert (quick.link, quick.boundary, quick.min_size_bytes) == (
        slow.link,
        slow.boundary,
        slow.min_size_bytes,
    )
    assert (quick.budget_bytes, quick.host_budget_bytes) == (
        slow.budget_bytes,
        slow.host_budget_bytes,
    )
    own = range(len(profile.storages))
    for field in ("whole_gaps", "part_gaps"):
        check_gaps(getattr(quick, field), own, getattr(slow, field), step.origins)


def check_gaps(
    quick: Sequence[Gap], own: Sequence[int], slow: Sequence[Gap], origins: Sequence[int]
) -> None:
    """Gaps are the same one by one; two hold the same bytes here if they do there."""
    assert sorted(facts(gap, own) for gap in quick) == sorted(facts(gap, origins) for gap in slow)
    assert same_bytes(quick, own) == same_bytes(slow, origins)


def facts(gap: Gap, origins: Sequence[int]) -> tuple[Any, ...]:
    return (
        origins[gap.storage],
        gap.first_slot,
        gap.next_use_slot,
        gap.size_bytes,
        gap.reuse_index,
        gap.read_only,
        gap.is_mask,
    )


def same_bytes(gaps: Sequence[Gap], origins: Sequence[int]) -> set[frozenset[tuple[int, int, int]]]:
    """Gaps that hold the same bytes, together."""
    together: dict[tuple[int, int], set[tuple[int, int, int]]] = defaultdict(set)
    for gap in gaps:
        place = (origins[gap.storage], gap.first_slot, gap.next_use_slot)
        together[gap.storage, gap.version].add(place)
    return {frozenset(places) for places in together.values()}


@given(op_steps, seeds, st.sampled_from(Boundary), st.sampled_from([0.0, 0.4, 0.7]))
@settings(max_examples=400)
def test_the_problem_is_that_of_the_rewritten_profile(
    profile: Profile, seed: int, boundary: Boundary, share: float
) -> None:
    rng = random.Random(seed)
    peak_bytes = profile.peak_bytes
    asked: dict[str, Any] = {
        "budget_bytes": round(share * peak_bytes),
        "link": profile.link,
        "host_budget_bytes": rng.choice([None, 0, peak_bytes // 8, peak_bytes // 2]),
        "min_size_bytes": rng.choice([1, 1, 200]),
        "boundary": boundary,
    }
    check_both_ways(profile, *random_drops(profile, rng, boundary), asked)


@pytest.mark.parametrize("boundary", Boundary)
def test_of_a_step_of_a_network(boundary: Boundary) -> None:
    profile = network_step()
    effects = StepEffects(profile)
    found = rebuilt(effects, offered_gaps(effects, boundary)[::2])
    asked = {"link": profile.link, "boundary": boundary, "min_size_bytes": 2**20}
    asked["budget_bytes"] = profile.peak_bytes // 2
    check_both_ways(profile, effects, found, asked)


def test_nothing_dropped_is_the_problem_itself() -> None:
    profile = network_step()
    problem: Problem = problem_of(profile, budget_bytes=profile.peak_bytes // 2, link=profile.link)
    assert ProblemRewriter(StepEffects(profile), problem).without(()) == problem
