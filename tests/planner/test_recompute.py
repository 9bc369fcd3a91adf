"""Toys of what to swap and what to run again, solved by hand, and plans of random steps.

Toys have one op per slot; a copy of one byte takes 1 us each way. `w` is a workspace that lives
during one op. Nothing keeps an op from being run again.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plan.plan import Boundary, Plan, Without
from planner.solving import solve
from profiles import Profile
from profiles.schema.errors import BudgetError
from tests.support.commands import PATIENCE_S
from tests.support.planning.oracle import smallest_budget_bytes
from tests.support.planning.rebuilt import repeatable
from tests.support.planning.strategies import peak_bytes
from tests.support.planning.toys import activation, fixed, resident, toy, toy_link
from tests.support.recompute.op_steps import op_steps
from tests.support.recompute.oracle import RecomputeJob
from tests.support.recompute.plans import check_recompute_plan, moved


def plan(
    profile: Profile,
    budget_bytes: int,
    without: Without = Without.NOTHING,
    *,
    boundary: Boundary = Boundary.RESIDENT,
    host_budget_bytes: int | None = None,
) -> Plan:
    """Plans, and checks every invariant."""
    made = solve(
        profile,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=1,
        boundary=boundary,
        without=without,
        time_limit_s=PATIENCE_S,
    )
    check_recompute_plan(made, profile)
    return made


def times(made: Plan) -> tuple[float, float]:
    """What is run again, and what waits."""
    about = made.certificate
    return round(about.recompute_us, 6), round(about.simulated_stall_us, 6)


def check_least(made: Plan, profile: Profile, beyond_us: float) -> None:
    """The exact oracle says what was worked out, and no bound is above it."""
    job = RecomputeJob(profile, made.budget_bytes, made.boundary)
    assert job.least_beyond_us() == pytest.approx(beyond_us)
    assert sum(times(made)) == pytest.approx(beyond_us)
    assert made.certificate.bound_beyond_us <= beyond_us + 1e-6


def test_what_is_cheap_to_make_is_made_again() -> None:
    # Slot 2 holds x and w, 26 bytes, budget 20. A copy of x takes 6 us each way, and slots 1 and 3
    # hide 1 each: 10 us. Running op 0 takes 2.
    storages = [activation("pack:x", 6, 0, 4), fixed("w", 20, 2)]
    profile = repeatable(toy(2, 1, 9, 1, 9, storages=storages))
    made = plan(profile, 20)
    assert moved(made) == ([], ["pack:x"])
    assert times(made) == (2, 0)
    check_least(made, profile, 2)


def test_what_the_link_hides_is_swapped() -> None:
    # The same, but slots 1 and 3 hide the copies.
    storages = [activation("pack:x", 6, 0, 4), fixed("w", 20, 2)]
    profile = repeatable(toy(2, 6, 9, 6, 9, storages=storages))
    made = plan(profile, 20)
    assert moved(made) == (["pack:x"], [])
    assert times(made) == (0, 0)


def both_away(op_0_us: float, slot_4_us: float, slot_5_us: float) -> Profile:
    """x and y, 6 bytes each, must both be away in slot 3, whose work needs 12; op 1 is dear."""
    storages = [activation("pack:x", 6, 0, 6), activation("pack:y", 6, 1, 5), fixed("w", 12, 3)]
    return repeatable(toy(op_0_us, 30, 6, 3, slot_4_us, slot_5_us, 9, storages=storages))


def test_both_ways_together_beat_either() -> None:
    # x goes out during slot 1 and y during slot 2. If slots 4 and 5 hide what comes back, no more
    # is wanted.
    assert times(plan(both_away(4, 6, 9), 12)) == (0, 0)
    # If they take 2 us each, y waits 4 us at slot 5 and x 4 us at slot 6; op 0 takes no less.
    profile = both_away(4, 2, 2)
    assert times(plan(profile, 12, Without.RECOMPUTE)) == (0, 8)
    assert times(plan(profile, 12, Without.SWAP)) == (34, 0)
    check_least(plan(profile, 12), profile, 8)
    # With op 0 of 1 us, x is made again in that time, and y waits its 4 us.
    profile = both_away(1, 2, 2)
    made = plan(profile, 12)
    assert moved(made) == (["pack:y"], ["pack:x"])
    assert times(made) == (1, 4)
    check_least(made, profile, 5)


def test_no_host_bytes_leave_recompute_alone() -> None:
    made = plan(both_away(4, 6, 9), 12, host_budget_bytes=0)
    assert moved(made)[0] == []
    assert sorted(moved(made)[1]) == ["pack:x", "pack:y"]
    assert times(made) == (34, 0)


def test_a_chain_is_run_from_what_is_still_there() -> None:
    # y is made of x, x of the parameter p. Both are away in slot 3: dropped both, y takes ops 0 and
    # 1 and leaves x resident for slot 6.
    storages = [
        activation("pack:x", 6, 0, 1, 6),
        activation("pack:y", 6, 1, 5),
        resident("parameter:p", 1, 0),
        fixed("w", 12, 3),
    ]
    profile = repeatable(toy(2, 3, 1, 3, 1, 9, 9, storages=storages, link=toy_link(0.1, 0.1)))
    made = plan(profile, 13)
    (rebuild,) = made.rebuilds
    assert (rebuild.slot, [op.op for op in rebuild.ops]) == (5, [0, 1])
    assert [(drop.storage, drop.slot) for drop in rebuild.drops] == [(1, 2), (0, 2)]
    assert times(made) == (5, 0)
    check_least(made, profile, 5)


def test_an_input_that_would_have_to_be_made_is_part_of_the_price() -> None:
    # x is made of a, which ends with op 1: making x takes op 0, too, 10 us, and 4 bytes beside it
    # while op 1 runs. Swapping takes 8 us, of which slots 2 and 4 hide 1 each.
    storages = [activation("pack:a", 4, 0, 1), activation("pack:x", 4, 1, 5), fixed("w", 9, 3)]
    profile = repeatable(toy(9, 1, 1, 2, 1, 9, storages=storages))
    made = plan(profile, 9)
    assert moved(made) == (["pack:x"], [])
    check_least(made, profile, 6)


def test_what_is_made_on_the_way_must_fit() -> None:
    # As above, but op 0 is cheap: 2 us. Making x holds a and x, 8 bytes, at slot 5, where 5 more
    # lie: a budget of 12 has no room for that, 13 has.
    storages = [
        activation("pack:a", 4, 0, 1),
        activation("pack:x", 4, 1, 5),
        fixed("w", 9, 3),
        fixed("v", 5, 4, 5),
    ]
    profile = repeatable(toy(1, 1, 1, 2, 1, 9, storages=storages))
    assert moved(plan(profile, 12)) == (["pack:x"], [])
    made = plan(profile, 13)
    assert peak_bytes(profile) == 13
    assert moved(made) == ([], [])
    larger = [*storages[:2], fixed("w", 12, 3), storages[3]]
    profile = repeatable(toy(1, 1, 1, 2, 1, 9, storages=larger))
    made = plan(profile, 13)
    assert moved(made) == ([], ["pack:x"])
    assert times(made) == (2, 0)
    check_least(made, profile, 2)


# Random steps


def budget_of(profile: Profile, boundary: Boundary, share: float) -> int:
    smallest = smallest_budget_bytes(profile, boundary)
    return smallest + round(share * (peak_bytes(profile) - smallest))


@given(op_steps, st.sampled_from([0.0, 0.3, 0.7]), st.sampled_from(Boundary))
@settings(max_examples=25)
def test_plans_hold_and_are_no_worse_than_swaps(
    profile: Profile, share: float, boundary: Boundary
) -> None:
    budget_bytes = budget_of(profile, boundary, share)
    alone = plan(profile, budget_bytes, Without.RECOMPUTE, boundary=boundary)
    both = plan(profile, budget_bytes, boundary=boundary)
    beyond_us, stall_us = both.certificate.beyond_us, alone.certificate.simulated_stall_us
    assert beyond_us <= stall_us + 1e-6 * (1 + stall_us + profile.step_us)


@given(op_steps, st.sampled_from([0.3, 0.7]), st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=25)
def test_plans_hold_with_a_host_budget(profile: Profile, share: float, host: float) -> None:
    """Or name a budget that can be met."""
    budget_bytes = budget_of(profile, Boundary.PERIODIC, share)
    asked = {
        "host_budget_bytes": round(host * peak_bytes(profile)),
        "boundary": Boundary.PERIODIC,
    }
    try:
        made = plan(profile, budget_bytes, **asked)  # type: ignore[arg-type]
    except BudgetError as error:
        made = plan(profile, error.smallest_budget_bytes, **asked)  # type: ignore[arg-type]
    if host == 0:
        assert made.swaps == ()
