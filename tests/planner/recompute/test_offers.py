"""What is offered to a problem: which gaps recipes can end, where, and what is run at least."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plan.plan import Boundary
from planner.recompute.offers import NO_OFFERS, Offers, offers_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import rebuildings
from profiles import Profile
from profiles.schema.profile import StorageKind
from tests.support.planning.one_swap import problem_of
from tests.support.planning.toys import ToyStorage, activation, gradient, resident, toy
from tests.support.recompute.drops import every_gap, random_drops
from tests.support.recompute.op_steps import op_steps

X, A, B = 0, 1, 2


def step(*storages: ToyStorage, slots: int = 8) -> Profile:
    """A step of ops that may all be run again."""
    return toy(*range(1, slots + 1), storages=storages, traits=[()] * slots)


def offered(profile: Profile) -> Offers:
    return offers_of(StepEffects(profile), problem_of(profile, 0))


def ways(profile: Profile, storage: int, first_slot: int) -> list[tuple[int, int, set[int]]]:
    """For one gap: from where until where which ops are run."""
    gaps = problem_of(profile, 0).whole_gaps
    return [
        (option.from_slot, option.until_slot, set(option.ops))
        for option in offered(profile).options
        if (gaps[option.gap].storage, gaps[option.gap].first_slot) == (storage, first_slot)
    ]


def test_what_nothing_else_needs_comes_back_at_the_end_of_its_gap() -> None:
    # a has ended by then, so op 0 is run as well as op 1.
    profile = step(activation("x", 4, 1, 6), activation("a", 4, 0, 1, 4))
    assert ways(profile, X, 2) == [(6, 6, {0, 1})]


def test_what_another_recipe_needs_may_come_back_before() -> None:
    # y, which is read in slot 5, is made of x by op 1: if both are dropped, x is back in slot 5.
    profile = step(activation("x", 4, 0, 1, 7), activation("y", 4, 1, 5))
    assert ways(profile, X, 2) == [(5, 5, {0}), (7, 7, {0})]
    # a, which is read in slot 4, is made by op 0 together with x: that makes x in slot 4.
    together = replace(activation("a", 4, 0, 4), shown_at=3)
    profile = step(activation("x", 4, 0, 1, 7), together, activation("y", 4, 1, 5))
    assert ways(profile, X, 2) == [(4, 4, {0}), (5, 5, {0}), (7, 7, {0})]


@given(op_steps, st.integers(0, 2**16), st.sampled_from(Boundary))
@settings(max_examples=300)
def test_whatever_is_dropped_comes_back_in_a_way_that_is_offered(
    profile: Profile, seed: int, boundary: Boundary
) -> None:
    """And what is run there is what that way says at least; if early, for another."""
    effects, found = random_drops(profile, random.Random(seed), boundary)
    problem = every_gap(profile, boundary)
    whole = problem.whole_gaps
    options = offers_of(effects, problem).options
    for rebuilding in found:
        slot = rebuilding.recipe.slot
        for gap in rebuilding.gaps:
            (way,) = (
                option
                for option in options
                if whole[option.gap].storage == gap.storage
                and whole[option.gap].next_use_slot == gap.next_use_slot
                and option.from_slot <= slot <= option.until_slot
            )
            assert way.ops <= rebuilding.recipe.ops
            filled = {(gap.storage, gap.next_use_slot) for gap in rebuilding.gaps}
            if way.needed_by is not None:
                needing = {(whole[i].storage, whole[i].next_use_slot) for i in way.needed_by}
                assert needing & filled


def test_the_longer_it_lasts_the_more_is_run() -> None:
    # a is gone after slot 3, b after slot 5; y needs x at slot 3 already.
    profile = step(
        activation("x", 4, 2, 3, 7),
        activation("a", 4, 1, 2, 4),
        activation("b", 4, 0, 1, 6),
        activation("y", 4, 3, 5),
        slots=9,
    )
    assert ways(profile, X, 4) == [(5, 5, {1, 2}), (7, 7, {0, 1, 2})]


def test_before_its_end_it_costs_more_the_later_it_comes_back() -> None:
    # a is gone after slot 7; y needs x at slot 6 already, z at slot 8.
    profile = step(
        activation("x", 4, 2, 3, 4, 9),
        activation("a", 4, 1, 2, 7),
        activation("y", 4, 3, 6),
        activation("z", 4, 4, 8),
        slots=11,
    )
    assert ways(profile, X, 5) == [(6, 6, {2}), (8, 8, {1, 2}), (9, 9, {1, 2})]


def test_many_slots_before_its_end_are_divided_where_they_are_farthest_apart() -> None:
    # What op n makes of x needs it at slots 6, 7, 9 and 12, which begin after 21, 28, 45, 78 us.
    made = [activation(f"y{n}", 4, n, slot) for n, slot in ((1, 6), (2, 7), (3, 9), (4, 12))]
    profile = step(activation("x", 4, 0, 1, 2, 3, 4, 13), *made, slots=15)
    assert ways(profile, X, 5) == [(6, 7, {0}), (9, 9, {0}), (12, 12, {0}), (13, 13, {0})]


def test_what_comes_back_before_its_end_is_needed_by_another() -> None:
    profile = step(activation("x", 4, 0, 1, 7), activation("y", 4, 1, 5))
    gaps = problem_of(profile, 0).whole_gaps
    needed_by = {
        (gaps[option.gap].name, option.until_slot): {gaps[i].name for i in option.needed_by}
        for option in offered(profile).options
        if option.needed_by is not None
    }
    assert needed_by == {("x", 5): {"y"}}


def test_some_of_what_is_offered() -> None:
    profile = step(activation("x", 4, 1, 6), activation("a", 4, 2, 5))
    whole = offered(profile)
    assert whole.op_us == {1: 2.0, 2: 3.0}
    (first, second) = sorted(whole.gaps)
    one = whole.only([first])
    assert one.gaps == {first}
    assert one.op_us == {1: 2.0}
    assert whole.only([first, second]) == whole
    assert whole.only([]) == NO_OFFERS


def test_activations_alone_are_offered() -> None:
    profile = step(
        replace(activation("op:x", 4, 1, 6), kind=StorageKind.TEMPORARY),
        gradient("grad:a", 4, 0, 5),
        resident("parameter:b", 4, 0, 5),
    )
    assert offered(profile) == NO_OFFERS


def test_nothing_comes_back_at_the_last_anchor() -> None:
    # x is alive when the step ends: its last gap ends there, where no op runs.
    profile = step(replace(activation("x", 4, 1, 3), released_op=None))
    gaps = problem_of(profile, 0).whole_gaps
    assert [(gap.first_slot, gap.next_use_slot) for gap in gaps] == [(2, 3), (4, 8)]
    assert {gaps[i].first_slot for i in offered(profile).gaps} == {2}
    assert rebuildings(StepEffects(profile), gaps) is None
