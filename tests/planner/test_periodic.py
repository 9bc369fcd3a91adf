"""Steps that repeat, solved by hand: gaps round the boundary, clean drops, a joint limit.

`w` is a workspace. `end` is the last slot and takes no time; after it slot 0 comes again.
"""

import pytest

from planner import Plan
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary
from planner.solving import solve
from profiles import Profile
from profiles.schema.profile import StorageKind
from tests.support.planning.invariants import check_plan, swaps_of
from tests.support.planning.oracle import least_stall_by_search
from tests.support.planning.reference import BareSwap
from tests.support.planning.toys import ToyStorage, activation, fixed, resident, toy, toy_link

STATE = StorageKind.OPTIMIZER_STATE


def plan(
    profile: Profile,
    budget_bytes: int,
    boundary: Boundary = Boundary.PERIODIC,
    host_budget_bytes: int | None = None,
    solver: SolverName = SolverName.HIGHS,
) -> Plan:
    """Plans, checks every invariant, and asks the exact oracle whether less stall was possible."""
    found = solve(
        profile,
        budget_bytes=budget_bytes,
        boundary=boundary,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=1,
        solver=solver,
    )
    check_plan(found, profile)
    least_us = least_stall_by_search(profile, budget_bytes, host_budget_bytes, boundary)
    assert found.certificate.simulated_stall_us == pytest.approx(least_us, abs=1e-6)
    assert found.certificate.bound_beyond_us <= found.certificate.simulated_stall_us + 1e-3
    return found


def stall_us(found: Plan) -> float:
    return round(found.certificate.simulated_stall_us, 6)


def state_and_workspace() -> list[ToyStorage]:
    """s is touched in slot 3 alone; slot 0 needs as much again."""
    return [resident("state:s", 6, 3, kind=STATE, writes=[3]), fixed("w", 6, 0)]


@pytest.mark.parametrize("solver", SolverName)
def test_a_state_is_away_while_the_step_begins(solver: SolverName) -> None:
    # s and w take 12 bytes in slot 0, budget 6. s leaves in slot 4 (4 of 6 us hide, `end` takes no
    # time, anchor 0 waits 2), and comes back in slots 1 and 2, whose 5 us hide all but 1. Together
    # 3 in every step.
    profile = toy(10, 3, 2, 10, 4, storages=state_and_workspace())
    found = plan(profile, 6, solver=solver)
    (swap,) = swaps_of(found)
    assert (swap.swap_out_slot, swap.swap_in_slot, swap.await_slot) == (4, 1, 3)
    assert found.swaps[0].wraps
    assert stall_us(found) == 3
    assert found.certificate.bound_beyond_us == pytest.approx(3, abs=1e-4)


def test_within_the_step_its_way_out_cannot_begin_earlier() -> None:
    # The same, but s is there when the step begins: anchor 0 waits for all 6 us, and 1 as above.
    profile = toy(10, 3, 2, 10, 4, storages=state_and_workspace())
    found = plan(profile, 6, Boundary.RESIDENT)
    assert swaps_of(found) == [BareSwap(0, 0, 0, 1, 3)]
    assert stall_us(found) == 7


def test_a_copy_back_begins_before_the_boundary() -> None:
    # p is used in slot 1 and away in slot 3. Its 6 us back: 3 hide in slot 4, 3 in the next step's
    # slot 0. Begun in slot 0, compute would wait 3; so it would if p had to be there at `end`.
    profile = toy(3, 10, 10, 10, 3, storages=[resident("parameter:p", 6, 1), fixed("w", 6, 3)])
    found = plan(profile, 6)
    (swap,) = swaps_of(found)
    assert (swap.swap_in_slot, swap.await_slot) == (4, 1)
    assert stall_us(found) == 0
    within = plan(profile, 6, Boundary.RESIDENT)
    assert [swap.await_slot for swap in swaps_of(within)] == [5]
    assert stall_us(within) == 3


def test_the_way_out_goes_on_over_the_boundary() -> None:
    # s is touched in slot 3, so its 6 us out hide in slot 4 (3 us) and in the next step's slot 0
    # (3 us) before slot 1 needs its bytes: the copy is under way when the step ends.
    storages = [resident("state:s", 6, 3, kind=STATE, writes=[3]), fixed("w", 6, 1)]
    found = plan(toy(3, 10, 10, 10, 3, storages=storages), 6)
    assert swaps_of(found) == [BareSwap(0, 4, 1, 2, 3)]
    assert stall_us(found) == 0


def three_gaps() -> Profile:
    """p is read in slots 2 and 5 and written in slot 8; slots 0, 3 and 6 need its room."""
    p = resident("parameter:p", 6, 2, 5, 8, writes=[8])
    return toy(*[10] * 10, storages=[p, *(fixed(f"w{t}", 6, t) for t in (0, 3, 6))])


def test_one_copy_to_the_host_serves_every_gap_until_the_next_write() -> None:
    # After its update p is copied out in slot 9. Nothing writes it before slot 8 of the next step,
    # so anchors 3 and 6, where its bytes must go at once, drop it and wait for nothing. The ways
    # back hide in slots 1, 4 and 7. Stall 0, 6 bytes out and 18 back.
    found = plan(three_gaps(), 6)
    assert [(t.release_slot % 10, t.swap_in_slot, t.await_slot) for t in swaps_of(found)] == [
        (3, 4, 5),
        (6, 7, 8),
        (0, 1, 2),
    ]
    assert [swap.clean for swap in found.swaps] == [True, True, False]
    assert stall_us(found) == 0
    assert (found.certificate.d2h_bytes, found.certificate.h2d_bytes) == (6, 18)


def test_a_write_makes_the_copy_on_the_host_untrue() -> None:
    # The same, but slot 5 writes p, too: the copy of slot 9 serves slot 3, and slot 6 needs a copy
    # of its own, for which anchor 6 waits 6.
    p = resident("parameter:p", 6, 2, 5, 8, writes=[5, 8])
    profile = toy(*[10] * 10, storages=[p, *(fixed(f"w{t}", 6, t) for t in (0, 3, 6))])
    found = plan(profile, 6)
    assert [swap.clean for swap in found.swaps] == [True, False, False]
    assert stall_us(found) == 6
    assert (found.certificate.d2h_bytes, found.certificate.h2d_bytes) == (12, 18)


def test_what_no_step_writes_is_never_copied_out() -> None:
    # A frozen weight goes at anchor 1 without a wait, and is back after slot 2, which takes 4 of
    # its 6 us: 2.
    storages = [resident("parameter:frozen", 6, 0, 3), fixed("w", 6, 1)]
    found = plan(toy(10, 10, 4, 10, storages=storages), 6)
    assert [swap.clean for swap in found.swaps] == [True]
    assert (found.certificate.d2h_bytes, found.certificate.h2d_bytes) == (0, 6)
    assert stall_us(found) == 2


def crossing() -> list[ToyStorage]:
    """In slot 4 alone x can leave and y can come back; see `crossing_step`."""
    return [
        activation("x", 6, 3, 7),
        activation("y", 6, 0, 5),
        fixed("w1", 12, 2, 3),
        fixed("w2", 12, 5),
    ]


def crossing_step(out: float, back: float, both: float | None) -> Profile:
    link = toy_link(out, back).model_copy(update={"both_bytes_per_us": both})
    return toy(10, 10, 10, 10, 8, 10, 10, 10, storages=crossing(), link=link)


@pytest.mark.parametrize("solver", SolverName)
@pytest.mark.parametrize(
    ("out", "back", "both", "stall"),
    [
        # Each way on its own hides its 6 us in slot 4's 8.
        (1, 1, None, 0),
        # Together 1 byte a microsecond: 12 us in 8.
        (1, 1, 1, 4),
        # Both run at half their rates until x is out (6 us), y's last 3 bytes take 3 us: 9 in 8.
        (2, 1, 1.5, 1),
    ],
)
def test_both_directions_at_once_share_a_joint_rate(
    out: float, back: float, both: float | None, stall: float, solver: SolverName
) -> None:
    # Budget 18: slot 3 holds x, y and w1 (24), so y is away in it; slot 5 holds x, y and w2 (24)
    # and uses y, so x is away in it, and is known from anchor 4 on.
    profile = crossing_step(out, back, both)
    found = solve(profile, budget_bytes=18, min_size_bytes=1, solver=solver)
    by_storage = {swap.storage: swap for swap in swaps_of(found)}
    assert (by_storage[0].swap_out_slot, by_storage[1].swap_in_slot) == (4, 4)
    assert stall_us(found) == stall
    assert found.certificate.bound_beyond_us <= stall + 1e-3


def test_a_host_budget_counts_what_waits_over_the_boundary() -> None:
    # s or p must be away in slot 0 (18 bytes, budget 12). s is back in time, p is used in slot 1
    # and waits 6. With host bytes for p's 4 only, p goes: 4 us wait at anchor 1.
    s = resident("state:s", 6, 4, kind=STATE, writes=[4])
    p = resident("parameter:p", 4, 1, 4, writes=[4])
    profile = toy(*[10] * 6, storages=[s, p, fixed("w", 6, 0)])
    free = plan(profile, 12)
    assert 0 in {swap.storage for swap in free.swaps}
    assert stall_us(free) == 0
    tight = plan(profile, 12, host_budget_bytes=4)
    assert {swap.storage for swap in tight.swaps} == {1}
    assert stall_us(tight) == 4
    assert tight.host_pool_bytes == 4
