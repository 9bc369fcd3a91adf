"""Timings of the list scheduler, worked out by hand."""

import math
from dataclasses import replace

import pytest

from planner.plan.plan import Boundary
from planner.plan.simulate import simulate
from planner.problem.problem import problem_like
from planner.search.candidate import (
    POLICIES,
    YIELDING_POLICIES,
    Candidate,
    OutOrder,
    Override,
    Policy,
    with_yielding,
)
from planner.search.list_scheduler import schedule_swaps, schedule_within
from tests.support.planning.actions import action
from tests.support.planning.one_swap import problem_of
from tests.support.planning.toys import activation, fixed, resident, toy, toy_link

EAGER = Policy(out_order=OutOrder.FIRST_BEGUN, lead=math.inf, overtake=False)
LATE = Policy(out_order=OutOrder.FIRST_BEGUN, lead=1.0, overtake=False)


def test_a_copy_back_starts_as_early_or_as_late_as_its_policy_says() -> None:
    # x is away in slots 2.. and due in slot 6; its copy back takes 6 us, one slot 10.
    x, w = activation("pack:x", 6, 0, 6), fixed("w", 6, 2)
    job = problem_of(toy(*[10] * 7, storages=[x, w]), 6)
    (early,) = schedule_swaps(job, Candidate(frozenset({0}), EAGER)).swaps
    (late,) = schedule_swaps(job, Candidate(frozenset({0}), LATE)).swaps
    assert (early.swap_out_slot, early.release_slot) == (1, 2)
    assert (early.swap_in_slot, late.swap_in_slot) == (3, 5)


def test_an_override_delays_but_memory_comes_first() -> None:
    x, w = activation("pack:x", 6, 0, 6), fixed("w", 6, 3)
    job = problem_of(toy(*[10] * 7, storages=[x, w]), 6)
    held = Candidate(frozenset({0}), EAGER, {0: Override(out_slot=2, in_slot=5)})
    (swap,) = schedule_swaps(job, held).swaps
    assert (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot) == (2, 3, 5)
    too_long = Candidate(frozenset({0}), EAGER, {0: Override(out_slot=5, in_slot=6)})
    (swap,) = schedule_swaps(job, too_long).swaps
    assert (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot) == (3, 3, 6)


def test_gaps_in_no_slots_way_are_left_alone() -> None:
    # p is idle in slot 0 alone, which fits; by slot 1, its next use, its copy has not ended.
    x, w = activation("pack:x", 6, 0, 5), fixed("w", 6, 3)
    profile = toy(1, 10, 10, 10, 10, 10, storages=[x, resident("p", 3, 1, 2, 3, 4, 5), w])
    job = problem_of(profile, 9)
    assert len(job.whole_gaps) == 2
    timing = schedule_swaps(job, Candidate(job.whole_set, EAGER))
    assert [job.gaps[swap.gap].name for swap in timing.swaps] == ["pack:x"]


def test_a_long_wait_for_room_is_spread_over_the_anchors_before() -> None:
    # From 20 us on a leaves for 3 us, then b for 5 us, and slot 4 has room for neither. What anchor
    # 3, at 21 us, waits for a lets x, which takes 4 us, come back while b leaves. At anchor 4 alone
    # compute would wait 6 us for both, and then 3 us for x at anchor 5.
    x, w = activation("pack:x", 4, 0, 5), fixed("w", 5, 4)
    a, b = activation("pack:a", 3, 1, 8), activation("pack:b", 5, 2, 7)
    job = problem_of(toy(10, 10, 1, 1, 1, 50, 10, 1, 1, storages=[x, a, b, w]), 9)
    timing = schedule_swaps(job, Candidate(job.whole_set, EAGER))
    swaps = {job.gaps[swap.gap].name: swap for swap in timing.swaps}
    assert [(wait.slot, wait.wait_us) for wait in timing.waits] == [(3, 2), (4, 4)]
    assert (swaps["pack:a"].release_slot, swaps["pack:b"].release_slot) == (3, 4)
    assert swaps["pack:x"].swap_in_slot == 3


def test_a_copy_to_the_host_makes_way_for_one_that_compute_waits_for() -> None:
    # Both lanes together carry one byte per us. Slot 2 has no room for x, which comes back in slot
    # 3, and slot 6 none for y, which could leave from slot 3 on. Do both move in slot 3, x is late
    # by 10 us. y has time until slot 5.
    x, y = activation("pack:x", 10, 0, 4), activation("pack:y", 10, 2, 8)
    storages = [x, y, fixed("w", 10, 2), fixed("v", 20, 6)]
    link = toy_link().model_copy(update={"both_bytes_per_us": 1.0})
    job = problem_of(toy(*[10] * 9, storages=storages, link=link), 20)
    eager, yielding = EAGER, replace(EAGER, out_lead=1.0)
    waits, outs = {}, {}
    for policy in (eager, yielding):
        timing = schedule_swaps(job, Candidate(job.whole_set, policy))
        waits[policy] = [(wait.slot, wait.wait_us) for wait in timing.waits]
        (outs[policy],) = [s.swap_out_slot for s in timing.swaps if job.gaps[s.gap].name == y.name]
    assert waits == {eager: [(4, 10)], yielding: []}
    assert outs == {eager: 3, yielding: 4}
    # One lane each: nothing is slowed, and nothing need wait.
    alone = replace(job, link=toy_link())
    assert with_yielding((eager,), alone.link) == (eager,)
    assert schedule_swaps(alone, Candidate(alone.whole_set, eager)).waits == ()


def test_what_yields_leaves_where_a_slot_has_no_room_for_it() -> None:
    # As above, but slot 4 has room for neither: y is due there, so it cannot wait.
    x, y = activation("pack:x", 10, 0, 6), activation("pack:y", 10, 2, 8)
    storages = [x, y, fixed("w", 10, 2), fixed("v", 20, 4)]
    link = toy_link().model_copy(update={"both_bytes_per_us": 1.0})
    job = problem_of(toy(*[10] * 9, storages=storages, link=link), 20)
    timing = schedule_swaps(job, Candidate(job.whole_set, replace(EAGER, out_lead=1.0)))
    (swap,) = [swap for swap in timing.swaps if job.gaps[swap.gap].name == y.name]
    assert swap.swap_out_slot == 3


def test_a_timing_is_given_up_once_compute_waits_longer_than_it_may() -> None:
    # Nothing wraps: what one step waits is what every step waits, 2 us at anchor 3 and 4 at 4.
    x, w = activation("pack:x", 4, 0, 5), fixed("w", 5, 4)
    a, b = activation("pack:a", 3, 1, 8), activation("pack:b", 5, 2, 7)
    job = problem_of(toy(10, 10, 1, 1, 1, 50, 10, 1, 1, storages=[x, a, b, w]), 9)
    candidate = Candidate(job.whole_set, EAGER)
    assert schedule_within(job, candidate, 6) == schedule_swaps(job, candidate)
    assert schedule_within(job, candidate, 5.9) is None


def test_a_first_step_may_wait_for_what_wraps() -> None:
    # As the first step begins p is away, and is wanted at once: 5 us. Later ones find it back.
    profile = toy(10, 10, 10, 10, storages=[resident("p", 5, 0), fixed("w", 5, 2)])
    job = problem_like(replace(problem_of(profile, 5), boundary=Boundary.PERIODIC), profile)
    candidate = Candidate(job.whole_set, EAGER)
    timing = schedule_swaps(job, candidate)
    assert (timing.stall_us, timing.first_beyond_us) == (0, 5)
    assert schedule_within(job, candidate, 0) is None
    assert schedule_within(job, candidate, 0, first_beyond_us=5) == timing


@pytest.mark.parametrize("policy", [*POLICIES, *YIELDING_POLICIES])
def test_the_scheduler_keeps_the_simulators_time_and_the_budget(policy: Policy) -> None:
    storages = [
        activation("pack:a", 9, 0, 9),
        activation("pack:b", 5, 1, 8),
        activation("pack:c", 7, 2, 6),
        resident("parameter:p", 6, 3),
        fixed("w", 8, 4),
        fixed("v", 6, 7),
    ]
    job = problem_of(
        toy(3, 5, 2, 4, 6, 3, 2, 5, 1, 4, storages=storages, link=toy_link(2, 1, 1)), 16
    )
    assert job.fits(job.whole_set)
    timing = schedule_swaps(job, Candidate(job.whole_set, policy))
    held = list(job.resident_bytes)
    words: list[list[list[str]]] = [[[], [], [], []] for _ in held]
    for swap in timing.swaps:
        gap = job.gaps[swap.gap]
        if not swap.clean:
            words[swap.swap_out_slot][0].append(f"out {gap.storage}")
        words[swap.release_slot][1].append(f"release {gap.storage}")
        for t in range(swap.release_slot, swap.swap_in_slot):
            held[t] -= gap.size_bytes
    by_use = sorted(timing.swaps, key=lambda swap: job.gaps[swap.gap].next_use_slot)
    for swap in by_use:
        gap = job.gaps[swap.gap]
        words[swap.swap_in_slot][2].append(f"in {gap.storage}")
        words[gap.next_use_slot][3].append(f"await {gap.storage}")
    simulated = simulate(
        durations_us=job.durations_us,
        sizes_bytes={gap.storage: gap.size_bytes for gap in job.gaps},
        link=job.link,
        schedule=tuple(tuple(action(w) for kind in at for w in kind) for at in words),
    )
    assert max(held) <= 16
    assert simulated.total_stall_us == pytest.approx(timing.stall_us)
    assert timing.stall_us > 0
