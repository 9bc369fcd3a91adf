"""Toys solved by hand; what was worked out, the exact oracles and the planner must agree.

`w` is a workspace that lives during one op. Nothing is away when a step begins or ends; toys whose
swaps wrap are in `tests.planner.test_periodic`.
"""

import pytest

from planner import Plan
from planner.plan.plan import Boundary, Proof
from planner.solving import solve
from profiles import Profile
from profiles.schema.errors import BudgetError
from tests.support.planning.invariants import check_plan, swaps_of
from tests.support.planning.oracle import least_stall_by_search
from tests.support.planning.oracle_ilp import least_stall_by_ilp
from tests.support.planning.reference import BareSwap
from tests.support.planning.toys import activation, fixed, gradient, resident, toy, toy_link


def plan(profile: Profile, budget_bytes: int, *, host_budget_bytes: int | None = None) -> Plan:
    """Plans each step on its own, checks every invariant, and asks both oracles for less stall."""
    found = solve(
        profile,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=1,
        boundary=Boundary.RESIDENT,
    )
    check_plan(found, profile)
    least_us = least_stall_by_search(profile, budget_bytes, host_budget_bytes, Boundary.RESIDENT)
    assert found.certificate.simulated_stall_us == pytest.approx(least_us, abs=1e-6)
    if host_budget_bytes is None:
        assert least_us == least_stall_by_ilp(profile, budget_bytes)
    return found


def stall_us(found: Plan) -> float:
    return round(found.certificate.simulated_stall_us, 6)


def test_what_fits_is_left_alone() -> None:
    # Slots 0 and 1 hold x, 3 bytes: the budget of 3 is met with nothing moved.
    profile = toy(4, 4, storages=[activation("x", 3, 0, 1)])
    found = plan(profile, 3)
    assert found.swaps == ()
    assert found.certificate.proof is Proof.NOT_NEEDED
    assert (stall_us(found), found.certificate.bound_beyond_us, found.host_pool_bytes) == (0, 0, 0)


def test_one_swap_hidden_completely() -> None:
    # Slot 2 holds x and w, 12 bytes, budget 6: x must be away in slot 2, and only there can be. Out
    # in slot 1: 6 of 10 us. Back in slot 3: 6 of 10 us. No wait, and only one way to do it.
    x, w = activation("x", 6, 0, 4), fixed("w", 6, 2)
    found = plan(toy(10, 10, 10, 10, 10, storages=[x, w]), 6)
    assert swaps_of(found) == [BareSwap(0, 1, 2, 3, 4)]
    assert (stall_us(found), found.certificate.bound_beyond_us) == (0, 0)
    assert (found.certificate.peak_without_bytes, found.certificate.peak_bytes) == (12, 6)


def test_one_swap_with_a_known_stall() -> None:
    # As above, but slot 1 runs 4 us, so the release at anchor 2 waits 6 - 4 = 2; and x is used in
    # slot 3, the first one it can be back in, so the await at anchor 3 waits all 6. Together 8.
    x, w = activation("x", 6, 0, 3), fixed("w", 6, 2)
    found = plan(toy(10, 4, 10, 10, storages=[x, w]), 6)
    assert swaps_of(found) == [BareSwap(0, 1, 2, 3, 3)]
    assert stall_us(found) == 8


def test_every_copy_pays_the_latency() -> None:
    # As above with 3 us per copy: 2 + 3 at the release, 6 + 3 at the await. Together 14.
    x, w = activation("x", 6, 0, 3), fixed("w", 6, 2)
    profile = toy(10, 4, 10, 10, storages=[x, w], link=toy_link(latency_us=3))
    assert stall_us(plan(profile, 6)) == 14


def test_each_way_has_its_own_rate() -> None:
    # Out at 2 bytes/us: 3 us hide in the 4 us of slot 1. Back at 0.5: 12 us wait. Together 12.
    x, w = activation("x", 6, 0, 3), fixed("w", 6, 2)
    profile = toy(10, 4, 10, 10, storages=[x, w], link=toy_link(2.0, 0.5))
    assert stall_us(plan(profile, 6)) == 12


def test_nested_gaps_compete_for_the_way_back() -> None:
    # Slot 3 holds x, y and w, 16 bytes, budget 8: both are away in slot 3. Out they take 4 us in
    # slot 1 and 4 us in slot 2. From anchor 4 on 8 us must come back; y, made last, is used first,
    # in slot 5. y first: 2 us hide in slot 4, anchor 5 waits 2; x: 1 us hides in slot 5, anchor 6
    # waits 3. Together 5. (x first: anchor 5 waits 6 for both.)
    x, y, w = activation("x", 4, 0, 6), activation("y", 4, 1, 5), fixed("w", 8, 3)
    found = plan(toy(1, 4, 4, 1, 2, 1, 1, storages=[x, y, w]), 8)
    assert stall_us(found) == 5
    assert found.certificate.d2h_bytes == 8


def test_a_parameter_leaves_when_the_step_begins() -> None:
    # Slot 1 holds p and w, 12 bytes, budget 6. p leaves at `begin`: 4 us hide in slot 0, anchor 1
    # waits 2. It comes back in slot 2: 5 us hide, anchor 3, which uses it, waits 1. Together 3.
    p, w = resident("parameter:p", 6, 3), fixed("w", 6, 1)
    found = plan(toy(4, 3, 5, 1, storages=[p, w]), 6)
    assert swaps_of(found) == [BareSwap(0, 0, 1, 2, 3)]
    assert stall_us(found) == 3


def test_a_gradient_is_back_when_the_step_ends() -> None:
    # g is made in slot 0 and never used again, but it is alive when the step ends. Slot 2 holds g
    # and w, 12 bytes, budget 6. Out in slot 1: 2 us wait. Back at `end`: slot 2 is the last, so
    # nothing hides the 6 us. Together 8.
    g, w = gradient("grad:g", 6, 0), fixed("w", 6, 2)
    found = plan(toy(9, 4, 9, storages=[g, w]), 6)
    assert swaps_of(found) == [BareSwap(0, 1, 2, 3, 3)]
    assert stall_us(found) == 8


def test_a_big_storage_lets_an_urgent_one_pass() -> None:
    # p (10 bytes) must be away in slot 4, 3 bytes of anything in slot 2, budget 13. p alone, out at
    # `begin`: anchor 2 comes at 5 us and waits 5. With x for slot 2, but p issued at `begin`: the
    # lane is p's until 10, so anchor 2 waits for x until 13. x first and p behind it at anchor 1: x
    # is out at 5, p at 15, just when anchors 2 and 4 ask. Back in slot 5: 13 us, hidden. Stall 0.
    p, x = resident("parameter:p", 10, 6), activation("pack:x", 3, 0, 6)
    storages = [p, x, fixed("w1", 3, 2), fixed("w2", 10, 4)]
    found = plan(toy(2, 3, 5, 5, 5, 13, 1, storages=storages), 13)
    assert stall_us(found) == 0
    assert found.certificate.d2h_bytes == 13


def test_waiting_for_the_way_out_makes_room_for_the_way_back() -> None:
    # Out 2 bytes/us, back 1. Budget 10: x (10) is away in slot 2; in slot 3 x or y (4) is; in slot
    # 4, which uses x, y is. If y leaves at leisure in slot 3, x comes back at anchor 4 and its 10
    # us wait. If y is released at anchor 3 already, that waits 2, and x comes back in slot 3,
    # hidden. y comes back in slot 5, hidden. Together 2.
    storages = [activation("x", 10, 0, 4), fixed("w", 6, 2), activation("y", 4, 2, 6)]
    found = plan(toy(*[10] * 7, storages=storages, link=toy_link(2.0, 1.0)), 10)
    assert stall_us(found) == 2


def test_the_host_budget_forces_the_other_choice() -> None:
    # Slot 3 holds x (6), y (4) and w (4), budget 10: 4 bytes must be away. x comes back in slot 4,
    # hidden, stall 0. y is used in slot 4, so it waits 4 us. A host budget of 4 leaves only y.
    x, y, w = activation("x", 6, 0, 5), activation("y", 4, 1, 4), fixed("w", 4, 3)
    profile = toy(10, 10, 10, 10, 10, 10, storages=[x, y, w])
    free = plan(profile, 10)
    assert ({swap.storage for swap in free.swaps}, stall_us(free)) == ({0}, 0)
    bound = plan(profile, 10, host_budget_bytes=4)
    assert ({swap.storage for swap in bound.swaps}, stall_us(bound)) == ({1}, 4)
    # With 3 host bytes nothing can be moved, so nothing less than the peak can be met.
    with pytest.raises(BudgetError) as refused:
        solve(profile, budget_bytes=10, host_budget_bytes=3, min_size_bytes=1)
    assert refused.value.smallest_budget_bytes == 14


def test_two_trips_share_host_bytes_one_after_the_other() -> None:
    # x and y each wait 6 us at the anchor of their next use, one swap over before the other begins:
    # 6 host bytes serve both.
    storages = [
        activation("x", 6, 0, 3),
        fixed("w1", 6, 2),
        activation("y", 6, 4, 7),
        fixed("w2", 6, 6),
    ]
    found = plan(toy(*[10] * 8, storages=storages), 6, host_budget_bytes=6)
    assert [swap.host_offset_bytes for swap in found.swaps] == [0, 0]
    assert (found.host_pool_bytes, stall_us(found)) == (6, 12)


def test_an_early_await_gives_host_bytes_back() -> None:
    # Slots 2 and 5 hold 18 bytes, budget 12: x is away in slot 2, y in slot 5. Out takes 12 us, in
    # slots 1 and 4; back takes 6 us, in slots 3 and 6: stall 0. Their host bytes meet at anchor 4
    # alone, where x is awaited after y is issued. With 6 host bytes either x is awaited at anchor 3
    # already, which waits 6, or y is issued at anchor 5, which waits 12.
    storages = [
        activation("x", 6, 0, 4),
        fixed("w1", 12, 2),
        activation("y", 6, 3, 7),
        fixed("w2", 12, 5),
    ]
    profile = toy(*[20] * 8, storages=storages, link=toy_link(0.5, 1.0))
    assert stall_us(plan(profile, 12)) == 0
    found = plan(profile, 12, host_budget_bytes=6)
    assert (found.host_pool_bytes, stall_us(found)) == (6, 6)
    assert swaps_of(found) == [BareSwap(0, 1, 2, 3, 3), BareSwap(2, 4, 5, 6, 7)]


def test_the_smallest_budget_and_the_op_that_sets_it() -> None:
    # Slot 2 holds x (6) and w (9). x can be away there, w cannot: 9 bytes, set by op2. The other
    # slots hold 6.
    profile = toy(5, 5, 5, 5, storages=[activation("x", 6, 0, 3), fixed("w", 9, 2)])
    with pytest.raises(BudgetError, match=r"\bop2\b") as refused:
        solve(profile, budget_bytes=8, min_size_bytes=1)
    assert refused.value.smallest_budget_bytes == 9
    assert "9" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert plan(profile, 9).certificate.peak_bytes == 9


def test_what_cannot_be_moved_counts_towards_the_smallest_budget() -> None:
    # The same, but x belongs to somebody else: all 15 bytes stay.
    profile = toy(5, 5, 5, 5, storages=[fixed("x", 6, 0, 3), fixed("w", 9, 2)])
    with pytest.raises(BudgetError, match=r"\bop2\b") as refused:
        solve(profile, budget_bytes=14, min_size_bytes=1)
    assert refused.value.smallest_budget_bytes == 15
