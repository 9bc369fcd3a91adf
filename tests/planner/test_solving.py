"""From a profile and a budget to a plan."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner import one_round, solving, swap_stages
from planner.groundwork import Groundwork
from planner.ilp.deadline import Deadline
from planner.ilp.solver import NO_BOUND, StallBound
from planner.plan.plan import BoundSource, Plan, Without
from planner.problem.settings import SETTINGS
from planner.search.drop_search import DropSearch
from planner.solving import solve
from profiles.recording.allocator_peaks import with_workspaces
from profiles.schema.errors import BudgetError
from tests.support.planning.one_swap import one_swap, slow_plan
from tests.support.planning.rebuilt import (
    mixed_plan,
    one_of_each,
    rebuilt_sandwich,
    repeatable,
    slow_sandwich,
)
from tests.support.planning.toys import SLOW, activation, fixed, sandwich, toy


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


def test_progress_is_reported() -> None:
    reported: list[tuple[str, int, int]] = []
    solve(
        one_swap(),
        budget_bytes=6,
        min_size_bytes=1,
        progress=lambda what, done, total: reported.append((what, done, total)),
    )
    assert [what for what, _, _ in reported[:2]] == ["bounding the stall", "timing the swaps"]
    assert all(0 <= done <= total for _, done, total in reported)


def test_the_plan_says_the_most_that_each_op_takes_while_it_runs() -> None:
    profile = with_workspaces(one_swap(), (0, 3, 1, 4, 0))
    ops = tuple(op.model_copy(update={"name": "op1"}) for op in profile.ops[:3])
    profile = profile.model_copy(update={"ops": ops + profile.ops[3:]})
    plan = solve(profile, budget_bytes=6, min_size_bytes=1)
    taken = [(op.name, op.size_bytes) for op in plan.workspaces]
    assert taken == [("op1", 3), ("op3", 4)]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert solve(one_swap(), budget_bytes=6, min_size_bytes=1).workspaces == ()


def sandwiched(without: Without, host_budget_bytes: int | None = None, budget: int = 105) -> Plan:
    return solve(
        slow_sandwich(),
        budget_bytes=budget,
        min_size_bytes=1,
        without=without,
        host_budget_bytes=host_budget_bytes,
    )


def test_what_is_not_to_be_used_is_not_used() -> None:
    swapped, both, rebuilt = (
        sandwiched(without) for without in (Without.RECOMPUTE, Without.NOTHING, Without.SWAP)
    )
    # A copy of 50 bytes takes 5000 us each way, of which a slot hides 1000.
    assert swapped.certificate.simulated_stall_us == 8000
    assert not swapped.rebuilds
    assert both.certificate.beyond_us == rebuilt.certificate.beyond_us == 1000
    assert both.rebuilds == rebuilt.rebuilds
    assert not rebuilt.swaps
    assert (both.host_budget_bytes, rebuilt.host_budget_bytes) == (None, 0)


def test_no_host_bytes_are_no_swaps() -> None:
    alone, none_left = sandwiched(Without.SWAP), sandwiched(Without.NOTHING, 0)
    assert alone.rebuilds == none_left.rebuilds
    assert alone.certificate.bound_beyond_us == none_left.certificate.bound_beyond_us


def test_a_host_budget_too_small_for_swaps_is_met_by_drops() -> None:
    with pytest.raises(BudgetError, match="can is 150 bytes"):
        sandwiched(Without.RECOMPUTE, 49)
    plan = sandwiched(Without.NOTHING, 49)
    assert plan.rebuilds
    assert not plan.swaps


@pytest.mark.parametrize("host_budget_bytes", [0, 50])
def test_the_budget_that_is_named_can_be_met(host_budget_bytes: int) -> None:
    def planned(budget_bytes: int) -> Plan:
        return solve(
            one_of_each(),
            budget_bytes=budget_bytes,
            min_size_bytes=1,
            without=Without.NOTHING,
            host_budget_bytes=host_budget_bytes,
        )

    with pytest.raises(BudgetError) as refused:
        planned(90)
    # What slot 4 needs by itself.
    assert refused.value.smallest_budget_bytes == 100
    assert str(refused.value).startswith("budget 90 bytes cannot be met: one that can is 100 bytes")
    assert ("allow swaps" in str(refused.value)) == (host_budget_bytes == 0)
    assert planned(100).certificate.peak_bytes == 100


def test_what_can_be_made_again_by_no_op_is_not_dropped() -> None:
    with pytest.raises(BudgetError) as refused:
        solve(sandwich(), budget_bytes=105, min_size_bytes=1, without=Without.SWAP)
    assert str(refused.value).startswith(
        "budget 105 bytes cannot be met: the smallest that can is 150 bytes, set by op2 in slot 2"
    )
    kept = repeatable(toy(9, 9, 9, storages=[fixed("w", 50, 0, 2), fixed("v", 100, 1)]))
    with pytest.raises(BudgetError, match="is 150 bytes"):
        solve(kept, budget_bytes=105, min_size_bytes=1, without=Without.SWAP)


def test_dear_storages_are_swapped_and_cheap_ones_rebuilt() -> None:
    plan = mixed_plan()
    assert [plan.storage(swap.storage).name for swap in plan.swaps] == ["pack:1"]
    rebuilt = [drop.storage for rebuild in plan.rebuilds for drop in rebuild.drops]
    assert [plan.storage(storage).name for storage in rebuilt] == ["pack:2", "pack:0"]
    about = plan.certificate
    assert (about.compute_us, about.recompute_us) == (43_020, 20)
    assert (about.peak_without_bytes, about.peak_bytes) == (250, 100)
    assert about.bound_beyond_us <= about.beyond_us


@pytest.mark.parametrize("is_proven", [True, False])
def test_what_the_ilp_with_places_proves_holds_where_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch, *, is_proven: bool
) -> None:
    # To make it again takes 9000 us. A copy takes 5000 each way; slots hide 1000 of both.
    storages = [activation("pack:0", 50, 0, 4), fixed("op:2", 100, 2)]
    profile = repeatable(toy(9000, *[1000] * 4, storages=storages, link=SLOW))
    bound = StallBound(7990.0, BoundSource.WHOLE_STORAGES, proven=is_proven)
    monkeypatch.setattr(one_round, "_known_meanwhile", lambda *_: bound)
    monkeypatch.setattr(Groundwork, "joint_bound", lambda ground, deadline: NO_BOUND)
    monkeypatch.setattr(swap_stages, "whole_bound", lambda *_, **__: NO_BOUND)
    about = solve(profile, budget_bytes=105, min_size_bytes=1).certificate
    assert (about.recompute_us, about.simulated_stall_us) == (0, 8000)
    assert (about.bound_beyond_us, about.bound_source) == (7990, BoundSource.WHOLE_STORAGES)


def rounds(patch: pytest.MonkeyPatch, **settings: Any) -> list[object]:
    """Sets how planning goes on in rounds; returns a list that each round is put into."""
    begun: list[object] = []
    once = one_round.solved

    def counted(work: Any, without: Without) -> Any:
        begun.append(work.known)
        return once(work, without)

    patch.setattr(solving, "SETTINGS", replace(SETTINGS, **settings))
    patch.setattr(solving, "solved", counted)
    return begun


@pytest.mark.parametrize("make", [mixed_plan, rebuilt_sandwich, slow_plan])
def test_what_a_round_has_no_time_for_the_next_one_finds(
    make: Callable[[], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make()
    begun = rounds(monkeypatch, quick_seconds=0.0, quick_gap=-1.0)
    plan = make()
    assert [known is None for known in begun] == [True, False]
    assert (plan.swaps, plan.rebuilds) == (expected.swaps, expected.rebuilds)
    assert plan.certificate.bound_beyond_us >= expected.certificate.bound_beyond_us
    assert plan.certificate.proof is expected.certificate.proof


def test_a_later_round_ends_as_soon_as_a_first_one_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[bool] = []
    improve = DropSearch.improve

    def noted(search: DropSearch, shares: Any, deadline: Deadline, **named: Any) -> None:
        improve(search, shares, deadline, **named)
        ends.append(deadline.over)

    monkeypatch.setattr(DropSearch, "improve", noted)
    rounds(monkeypatch, quick_seconds=20.0, quick_gap=-1.0)
    mixed_plan()
    assert len(ends) >= 2
    assert (ends[0], ends[-1]) == (False, True)


def test_a_plan_near_its_bound_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = rounds(monkeypatch, quick_seconds=0.0, quick_gap=math.inf)
    mixed_plan()
    assert begun == [None]


def test_a_limit_that_leaves_no_time_for_two_rounds_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = rounds(monkeypatch, quick_seconds=40.0, quick_gap=-1.0)
    mixed_plan()
    assert begun == [None]


def test_progress_counts_what_is_run_again() -> None:
    told: list[str] = []
    solve(
        one_of_each(),
        budget_bytes=100,
        min_size_bytes=1,
        without=Without.NOTHING,
        on_incumbent=lambda incumbent: told.append(str(incumbent)),
    )
    assert told[-1].startswith("recompute 20 us, stall 9.0 ms, bound ")
    assert "inf" not in "".join(told)
