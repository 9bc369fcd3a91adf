"""Where large gaps may be ended, what is read there, and for which other gap that is."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plan.plan import Boundary
from planner.problem.settings import SETTINGS, SearchSettings
from planner.recompute import places
from planner.recompute.offers import Option, offers_of
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from profiles import Profile
from tests.support.planning.one_swap import problem_of
from tests.support.planning.toys import activation, toy
from tests.support.recompute.drops import every_gap, random_drops
from tests.support.recompute.op_steps import op_steps

CHAIN = toy(
    *range(1, 10),
    storages=[activation("x", 4, 0, 1, 7), activation("y", 4, 1, 5), activation("w", 2, 2, 4)],
    traits=[()] * 9,
)
"""y, which is read in slot 5, is made of x, which is read in slot 7."""


def ways(profile: Profile, whole_bytes: int) -> dict[tuple[str, int, int], Option]:
    problem = problem_of(profile, 0)
    options = placed_offers(StepEffects(profile), problem, whole_bytes).options
    gaps = problem.whole_gaps
    return {
        (gaps[option.gap].name, option.from_slot, option.until_slot): option for option in options
    }


def test_a_large_gap_may_be_ended_where_another_one_ends_that_needs_it() -> None:
    found = ways(CHAIN, 4)
    names = [gap.name for gap in problem_of(CHAIN, 0).whole_gaps]
    early = found["x", 5, 5]
    assert {names[i] for i in early.needed_by or ()} == {"y"}
    assert early.reads == frozenset()
    assert found["x", 7, 7].needed_by is None
    assert found["y", 5, 5].reads == frozenset({0})


def test_the_default_is_a_few_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    effects, problem = StepEffects(CHAIN), problem_of(CHAIN, 0)
    assert placed_offers(effects, problem).whole_bytes == 1
    monkeypatch.setattr(places, "SETTINGS", SearchSettings(max_placed_gaps=2))
    assert placed_offers(effects, problem).whole_bytes == 3
    monkeypatch.setattr(places, "SETTINGS", SearchSettings(max_places=1))
    assert placed_offers(effects, problem) == offers_of(effects, problem)
    assert SETTINGS.max_places > 1


@given(op_steps, st.integers(0, 2**16), st.sampled_from(Boundary), st.integers(1, 40))
@settings(max_examples=300)
def test_whatever_is_dropped_comes_back_as_said(
    profile: Profile, seed: int, boundary: Boundary, whole_bytes: int
) -> None:
    """What is said to be read is there or made there, and one that needs it comes back as well."""
    effects, found = random_drops(profile, random.Random(seed), boundary)
    problem = every_gap(profile, boundary)
    whole = problem.whole_gaps
    options = placed_offers(effects, problem, whole_bytes).options
    for rebuilding in found:
        slot, recipe = rebuilding.recipe.slot, rebuilding.recipe
        filled = {(gap.storage, gap.next_use_slot) for gap in rebuilding.gaps}
        for gap in rebuilding.gaps:
            (way,) = (
                option
                for option in options
                if (whole[option.gap].storage, whole[option.gap].next_use_slot)
                == (gap.storage, gap.next_use_slot)
                and option.from_slot <= slot <= option.until_slot
            )
            assert way.ops <= recipe.ops
            assert (way.reads or frozenset()) <= recipe.found.keys() | {s for s, _ in filled}
            if way.needed_by is not None:
                needing = {(whole[i].storage, whole[i].next_use_slot) for i in way.needed_by}
                assert needing & filled
