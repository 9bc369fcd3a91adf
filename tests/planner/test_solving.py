"""From a profile and a budget to a plan."""

import pytest

from planner.solving import solve
from profiles.schema.errors import BudgetError
from tests.support.planning.one_swap import one_swap
from tests.support.planning.toys import activation, fixed, toy


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
