"""The planner part by part, on toys worked out by hand.

In the toys one byte takes one microsecond each way unless a link says otherwise, slot t runs op t,
and an activation is shown by the anchor after the op that makes it.
"""

import math
from collections.abc import Callable
from typing import Any

import pulp
import pytest

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.event_slots import least_away_bytes, least_sum_bytes
from planner.ilp.model import build
from planner.ilp.solver import Outcome, solve_model
from planner.ilp.variables import Goal
from planner.plan.device_memory import planned_bytes
from planner.plan.host_memory import HostNeed, host_offsets, peak_need_bytes, pool_bytes
from planner.plan.plan import Boundary, Plan
from planner.plan.schedule import Action, ActionKind, lower
from planner.plan.simulate import Copy, simulate, simulate_plan
from planner.plan.verify import verified
from planner.problem.gaps import Gap, candidate_gaps, default_min_size_bytes, gap_parts
from planner.problem.problem import Problem
from planner.search.candidate import POLICIES, Candidate, OutOrder, Override, Policy
from planner.search.list_scheduler import schedule_swaps
from planner.solving import solve
from planner.studies.check import first_fault_against
from profiles.schema.errors import BudgetError, FileError, SolverError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile
from tests.support.planning.toys import activation, fixed, gradient, resident, toy, toy_link

EAGER = Policy(out_order=OutOrder.FIRST_BEGUN, lead=math.inf, overtake=False)
PATIENCE = Deadline.within(3600.0)
"""More than any of these models takes, however slow the machine."""
LATE = Policy(out_order=OutOrder.FIRST_BEGUN, lead=1.0, overtake=False)


def problem(
    profile: Profile, budget_bytes: int, *, link: Link | None = None, host_bytes: int | None = None
) -> Problem:
    return Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=tuple(slot.resident_bytes for slot in slot_memory(profile)),
        whole_gaps=candidate_gaps(profile, 1),
        link=link or profile.link,
        boundary=Boundary.RESIDENT,
        min_size_bytes=1,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_bytes,
    )


def one_swap() -> Profile:
    """Slot 2 holds x and w, 12 bytes; x is idle in slots 1 to 3."""
    return toy(10, 10, 10, 10, 10, storages=[activation("pack:x", 6, 0, 4), fixed("w", 6, 2)])


def one_swap_plan() -> Plan:
    return solve(one_swap(), budget_bytes=6, min_size_bytes=1)


# Memory and gaps


def test_a_slot_needs_its_hungriest_op_and_an_empty_one_what_lives_across() -> None:
    # Ops 0 and 1 run in slot 0, op 2 in slot 2, none in slot 1. x lives during ops 0..2, y during
    # op 1 alone, p always. Slot 0: at op 1 x + y + p; slot 1: x + p; slot 2: x + p; end: p.
    storages = [activation("x", 8, 0, 2, shown_at=1), fixed("y", 4, 1), resident("p", 1)]
    profile = toy(1, 1, 1, storages=storages, ops=[2, 0, 1])
    found = [(slot.resident_bytes, slot.peak_op) for slot in slot_memory(profile)]
    assert found == [(13, "op1"), (9, ""), (9, "op2"), (1, "")]


def test_gaps_lie_between_uses_once_the_storage_is_shown() -> None:
    # x: used in 0, 3, 4; shown at 2, so only slot 2 is left of the first stretch; 3 and 4 touch.
    # p: idle before its use in 2 and after it, up to `end` (slot 6). g: from the slot after its
    # first use to `end`. w cannot move. s is too small.
    storages = [
        activation("x", 9, 0, 3, 4, shown_at=2),
        resident("p", 9, 2),
        gradient("g", 9, 3),
        fixed("w", 9, 0, 5),
        activation("s", 8, 1, 5, shown_at=3),
    ]
    profile = toy(*[1] * 6, storages=storages)
    found = [(gap.name, gap.first_slot, gap.next_use_slot) for gap in candidate_gaps(profile, 9)]
    assert found == [("p", 0, 2), ("x", 2, 3), ("p", 3, 6), ("g", 4, 6)]


@pytest.mark.parametrize(("peak_bytes", "smallest"), [(10, 1), (5_000, 5), (10**9, 10**6)])
def test_small_storages_stay_by_default(peak_bytes: int, smallest: int) -> None:
    assert default_min_size_bytes(peak_bytes) == smallest


def test_parts_of_a_gap_are_all_its_shorter_stretches() -> None:
    parts = gap_parts([Gap(0, "x", 5, 1, 3)], 4)
    assert [(gap.first_slot, gap.next_use_slot) for gap in parts] == [(1, 2), (2, 3)]
    assert gap_parts([Gap(0, "x", 5, 0, 1000)], 2000) == ()


# Schedule and simulator


def test_one_anchor_issues_then_gives_back_then_takes_then_awaits() -> None:
    found = lower(one_swap_plan())
    assert [[str(action) for action in actions] for actions in found] == [
        [],
        ["out 0"],
        ["release 0"],
        ["in 0"],
        ["await 0"],
        [],
    ]
    order = [ActionKind.SWAP_OUT, ActionKind.RELEASE, ActionKind.SWAP_IN, ActionKind.AWAIT]
    assert list(ActionKind) == order


@pytest.mark.parametrize("text", ["", "out", "out x", "push 3", "17 out"])
def test_what_is_no_action_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Action.from_str(text)


def test_copies_queue_on_their_lane_and_compute_waits() -> None:
    # Out at anchor 0: storage 0 takes 1 + 6/2 = 4 us, storage 1 behind it 1 + 4/2 = 3, until 7.
    # Anchor 1 comes at 5 and waits 2 for storage 1. Both come back from there: storage 1 first, by
    # the order given, 7 to 7 + 1 + 4/1 = 12, storage 0 to 12 + 1 + 6 = 19. Slot 1 runs from 7 to
    # 17; anchor 2 waits 2.
    words = (("out 0", "out 1"), ("release 0", "release 1", "in 1", "in 0"), ("await 1", "await 0"))
    found = simulate(
        durations_us=[5, 10, 1],
        sizes_bytes={0: 6, 1: 4},
        link=toy_link(2, 1, 1),
        schedule=tuple(tuple(Action.from_str(word) for word in anchor) for anchor in words),
    )
    assert found.d2h == (Copy(0, 0, 4), Copy(1, 4, 7))
    assert found.h2d == (Copy(1, 7, 12), Copy(0, 12, 19))
    assert found.start_us == (0, 7, 19)
    assert found.stall_us == (0, 2, 2)
    assert (found.total_stall_us, found.step_us) == (4, 20)


# Host pool


def test_host_bytes_are_shared_by_those_that_do_not_meet() -> None:
    # The first two meet at slot 3, where the second is issued before the first is awaited.
    needs = [HostNeed(0, 3, 5), HostNeed(3, 6, 5), HostNeed(4, 9, 5)]
    offsets = host_offsets(needs)
    assert offsets[0] != offsets[1]
    assert offsets[1] != offsets[2]
    assert pool_bytes(needs, offsets) == peak_need_bytes(needs) == 10


def test_a_hole_in_the_pool_is_used_if_it_is_large_enough() -> None:
    needs = [HostNeed(0, 1, 4), HostNeed(0, 9, 4), HostNeed(2, 9, 3), HostNeed(2, 9, 5)]
    offsets = host_offsets(needs)
    assert pool_bytes(needs, offsets) == 12
    assert peak_need_bytes(needs) == 12
    assert host_offsets([]) == ()


# The bound


def test_the_least_bytes_away_are_a_sum_of_whole_storages() -> None:
    assert least_sum_bytes([6, 10, 10], 7) == 10
    assert least_sum_bytes([6, 10, 10], 11) == 16
    assert least_sum_bytes([6, 10, 10], 26) == 26
    assert least_sum_bytes([6, 10, 10], 0) == 0
    # Nothing can help such a slot: what it is over stands.
    assert least_sum_bytes([6], 7) == 7


def test_rounding_sizes_to_steps_only_ever_lowers_the_sum() -> None:
    sizes = [10**9 + 1, 10**9 + 7, 3 * 10**8 + 1]
    # The third alone falls just short, so either of the others must go.
    found = least_sum_bytes(sizes, 3 * 10**8 + 10**6)
    assert 0.999 * 10**9 < found <= 10**9 + 1


def test_what_must_be_away_by_slot() -> None:
    # Only slot 2 is over the budget of 10, by 2; x is all that is open there, so its 6 must go.
    assert least_away_bytes(problem(one_swap(), 10), range(6)) == (0, 0, 6, 0, 0, 0)


def bound_us(profile: Profile, budget_bytes: int, solver: SolverName) -> float:
    model = build(problem(profile, budget_bytes), Goal.STALL)
    solved = solve_model(model, solver, PATIENCE)
    assert solved.outcome is Outcome.OPTIMAL
    return solved.objective * model.units.time_us


@pytest.mark.parametrize("solver", SolverName)
def test_the_bound_of_a_single_swap_is_its_stall(solver: SolverName) -> None:
    # Slot 1 hides 4 of the 6 us out, slot 3 hides 5 of the 6 us back: 2 + 1.
    x, w = activation("pack:x", 6, 0, 4), fixed("w", 6, 2)
    profile = toy(10, 4, 10, 5, 10, storages=[x, w])
    assert bound_us(profile, 6, solver) == pytest.approx(3, abs=1e-5)
    # One byte over the budget still takes the whole of x.
    assert bound_us(profile, 11, solver) == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("solver", SolverName)
def test_the_bound_of_two_nested_gaps(solver: SolverName) -> None:
    # The toy of `test_nested_gaps_compete_for_the_way_back`, whose least stall is 5.
    x, y, w = activation("pack:x", 4, 0, 6), activation("pack:y", 4, 1, 5), fixed("w", 8, 3)
    profile = toy(1, 4, 4, 1, 2, 1, 1, storages=[x, y, w])
    assert bound_us(profile, 8, solver) == pytest.approx(5, abs=1e-5)


def test_every_row_bears_its_number_and_no_other() -> None:
    # x idles for 10 us and its copies take 12, so every kind of row is there.
    profile = toy(10, 4, 3, 3, 10, storages=[activation("x", 6, 0, 4), fixed("w", 6, 2)])
    model = build(problem(profile, 6, host_bytes=6), Goal.CHOICE)
    numbers = {str(row.name).split("_")[0] for row in model.program.constraints()}
    # Without parts of gaps there is no row (9).
    assert numbers == {f"c{n}" for n in range(13)} - {"c9"}


@pytest.mark.parametrize("solver", SolverName)
def test_an_impossible_model_is_told_from_an_unsolved_one(solver: SolverName) -> None:
    model = build(problem(one_swap(), 5), Goal.CHOICE)
    assert solve_model(model, solver, PATIENCE).outcome is Outcome.INFEASIBLE


def test_fractions_in_binaries_are_never_taken_for_a_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(problem(one_swap(), 6), Goal.CHOICE)

    def stop(status: int) -> Callable[[Any], int]:
        def give_back(_: Any) -> int:
            for variable in model.program.variables():
                variable.varValue = 0.5
            model.program.sol_status = status
            return pulp.LpStatusOptimal

        return give_back

    monkeypatch.setattr(model.program, "solve", stop(pulp.LpSolutionIntegerFeasible))
    stopped = solve_model(model, SolverName.HIGHS, PATIENCE)
    assert (stopped.outcome, stopped.chosen) == (Outcome.NOTHING, frozenset())
    monkeypatch.setattr(model.program, "solve", stop(pulp.LpSolutionOptimal))
    with pytest.raises(SolverError, match="fractions"):
        solve_model(model, SolverName.HIGHS, PATIENCE)


# The scheduler


def test_a_copy_back_starts_as_early_or_as_late_as_told() -> None:
    # x is away in slots 2.. and due in slot 6; its copy back takes 6 us, one slot 10.
    x, w = activation("pack:x", 6, 0, 6), fixed("w", 6, 2)
    job = problem(toy(*[10] * 7, storages=[x, w]), 6)
    (early,) = schedule_swaps(job, Candidate(frozenset({0}), EAGER)).swaps
    (late,) = schedule_swaps(job, Candidate(frozenset({0}), LATE)).swaps
    assert (early.swap_out_slot, early.release_slot) == (1, 2)
    assert (early.swap_in_slot, late.swap_in_slot) == (3, 5)


def test_a_hold_delays_but_memory_comes_first() -> None:
    x, w = activation("pack:x", 6, 0, 6), fixed("w", 6, 3)
    job = problem(toy(*[10] * 7, storages=[x, w]), 6)
    held = Candidate(frozenset({0}), EAGER, {0: Override(out_slot=2, in_slot=5)})
    (swap,) = schedule_swaps(job, held).swaps
    assert (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot) == (2, 3, 5)
    too_long = Candidate(frozenset({0}), EAGER, {0: Override(out_slot=5, in_slot=6)})
    (swap,) = schedule_swaps(job, too_long).swaps
    assert (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot) == (3, 3, 6)


def test_gaps_in_nobodys_way_are_left_alone() -> None:
    # p is idle in slot 0 alone, which fits; by slot 1, its next use, its copy has not ended.
    x, w = activation("pack:x", 6, 0, 5), fixed("w", 6, 3)
    profile = toy(1, 10, 10, 10, 10, 10, storages=[x, resident("p", 3, 1, 2, 3, 4, 5), w])
    job = problem(profile, 9)
    assert len(job.whole_gaps) == 2
    timing = schedule_swaps(job, Candidate(job.whole_set, EAGER))
    assert [job.gaps[swap.gap].name for swap in timing.swaps] == ["pack:x"]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_scheduler_keeps_the_simulators_time_and_the_budget(policy: Policy) -> None:
    storages = [
        activation("pack:a", 9, 0, 9),
        activation("pack:b", 5, 1, 8),
        activation("pack:c", 7, 2, 6),
        resident("parameter:p", 6, 3),
        fixed("w", 8, 4),
        fixed("v", 6, 7),
    ]
    job = problem(toy(3, 5, 2, 4, 6, 3, 2, 5, 1, 4, storages=storages, link=toy_link(2, 1, 1)), 16)
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
        schedule=tuple(tuple(Action.from_str(w) for kind in at for w in kind) for at in words),
    )
    assert max(held) <= 16
    assert simulated.total_stall_us == pytest.approx(timing.stall_us)
    assert timing.stall_us > 0


# Solving


def test_the_message_names_the_smallest_budget_so_that_asking_for_it_is_enough() -> None:
    # 1025 bytes of w are 1.001 KiB: rounded to nearest, the message would ask for too little.
    profile = toy(9, 9, 9, 9, storages=[activation("pack:x", 600, 0, 3), fixed("w", 1025, 2)])
    with pytest.raises(BudgetError) as refused:
        solve(profile, budget_bytes=1024, min_size_bytes=1)
    assert refused.value.smallest_budget_bytes == 1025
    assert str(refused.value) == (
        "budget 1.00 KiB cannot be met: the smallest that can is 1.01 KiB, set by op2 in slot 2 "
        "(anchor:2, module m2). Ask for at least that, or make the step smaller (batch, crop, "
        "model)."
    )


def test_solving_twice_gives_the_same_plan() -> None:
    storages = [activation(f"pack:{i}", 5 + i, i, 11 - i) for i in range(5)]
    profile = toy(*[4] * 12, storages=[*storages, fixed("w", 9, 5)])
    one, other = (solve(profile, budget_bytes=22, min_size_bytes=1) for _ in range(2))
    assert one.swaps == other.swaps
    assert one.swaps


def test_progress_is_told() -> None:
    reported: list[tuple[str, int, int]] = []
    solve(
        one_swap(),
        budget_bytes=6,
        min_size_bytes=1,
        progress=lambda what, done, total: reported.append((what, done, total)),
    )
    assert [what for what, _, _ in reported[:2]] == ["bounding the stall", "timing the swaps"]
    assert all(0 <= done <= total for _, done, total in reported)


# The verifier


def edited(plan: Plan, **fields: Any) -> Plan:
    """A plan with some fields changed, unverified."""
    return plan.model_copy(update=fields)


def test_a_broken_plan_is_refused() -> None:
    with pytest.raises(FileError, match="the plan is broken: slots"):
        verified(edited(one_swap_plan(), budget_bytes=5))


def test_a_plan_fits_its_own_profile_and_no_other() -> None:
    plan, profile = one_swap_plan(), one_swap()
    assert first_fault_against(plan, profile) is None
    other = toy(10, 10, 10, 10, 9, storages=[activation("pack:x", 6, 0, 4), fixed("w", 6, 2)])
    assert "profile_fingerprint" in str(first_fault_against(plan, other))
    forged = edited(plan, profile_fingerprint=other.fingerprint())
    assert "slots[4].duration_us is 10.0" in str(first_fault_against(forged, other))


def test_a_storage_is_not_away_when_it_is_used() -> None:
    # The same slots and storages, but x is used in slot 3 as well, where the plan has it away.
    plan = one_swap_plan()
    assert planned_bytes(plan)[2] == 6
    used = toy(*[10] * 5, storages=[activation("pack:x", 6, 0, 3, 4), fixed("w", 6, 2)])
    forged = edited(plan, profile_fingerprint=used.fingerprint())
    assert "inside none of its gaps" in str(first_fault_against(forged, used))


def test_a_plan_simulates_alone() -> None:
    plan = one_swap_plan()
    timeline = simulate_plan(plan)
    assert timeline.d2h == (Copy(0, 10, 16),)
    assert timeline.h2d == (Copy(0, 30, 36),)
    assert (timeline.total_stall_us, timeline.step_us) == (0, 50)
