"""The knapsack behind torch's memory budget, and what it saves, worked out by hand."""

from planner.heuristics.recomputing.choice import Choice
from planner.heuristics.recomputing.memory_budget import MEMORY_BUDGET, knapsack
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import activation
from tests.support.recompute.forward_backward import CHEAP, MM, asked, never, step


def test_a_knapsack_takes_what_is_worth_most_within_its_room() -> None:
    # 0.6 alone is worth 10, 0.5 and 0.4 together 11; the largest first would take 0.6.
    assert knapsack([0.6, 0.5, 0.4], [10, 6, 5], 0.9) == {1, 2}
    assert knapsack([0.6, 0.5, 0.4], [10, 6, 5], 0.0) == set()
    assert knapsack([], [], 1.0) == set()


def planned(budget_bytes: int) -> Choice:
    """Products make x (8 bytes) and y (2); p and q (4 each) are made from them by cheap ops."""
    storages = [
        activation("x", 8, 0, 1, 7),
        activation("p", 4, 1, 2, 6),
        activation("y", 2, 2, 3, 6, released_op=6),
        activation("q", 4, 3, 5),
    ]
    profile = step(storages, "aabb", (MM, CHEAP, MM, CHEAP))
    return checked(MEMORY_BUDGET.rule(asked(profile, budget_bytes), never))


def names(choice: Choice) -> set[str]:
    return {gap.name for gap in choice.dropped}


def test_what_fits_is_left_alone() -> None:
    # 18 bytes and 9 of work.
    assert names(planned(27)) == set()


def test_cheap_results_are_recomputed_first() -> None:
    # Banned are x and y: 10 of 18 bytes, so share 0.9 drops p and q.
    choice = planned(19)
    assert (names(choice), choice.peak_bytes, choice.recompute_us) == ({"p", "q"}, 19, 20)


def test_then_the_knapsack_drops_what_is_large_for_its_time() -> None:
    # At share 0.5, 9 bytes, x or y may be saved, each worth 10 us: not both. y is smaller, and
    # both sets are worth the same; either way something of the two is recomputed.
    choice = planned(18)
    assert names(choice) >= {"p", "q"}
    assert names(choice) & {"x", "y"}


def test_without_time_one_share_is_tried() -> None:
    profile = step([activation("x", 8, 0, 5)], "aabb", (CHEAP,) * 4)
    choice = MEMORY_BUDGET.rule(asked(profile, 1), lambda: True)
    assert choice.was_stopped
    assert names(choice) == {"x"}
