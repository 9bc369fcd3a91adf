"""Capuchin with its recomputation, worked out by hand."""

from planner.heuristics.recomputing.capuchin import CAPUCHIN_RECOMPUTE
from planner.heuristics.recomputing.choice import Choice
from profiles.schema.profile import Link
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import SLOW, toy_link
from tests.support.recompute.forward_backward import asked, never, two_blocks

FAST = toy_link(100.0, 100.0)


def planned(link: Link, budget_bytes: int) -> Choice:
    return checked(CAPUCHIN_RECOMPUTE.rule(asked(two_blocks(link), budget_bytes), never))


def names(choice: Choice) -> set[str]:
    return {gap.name for gap in choice.dropped}


def test_what_is_free_is_swapped() -> None:
    # x is idle for 50 us, which hides 0.04 us each way.
    choice = planned(FAST, 16)
    assert (names(choice), len(choice.swaps), choice.step_us) == (set(), 1, 80)


def test_where_no_swap_is_free_what_saves_most_per_second_is_recomputed() -> None:
    # At 100 us a byte y, the least unfree, lacks 370 us; x gives 4 bytes for the 10 us of op 0.
    choice = planned(SLOW, 16)
    assert (names(choice), choice.peak_bytes, choice.recompute_us) == ({"x"}, 16, 10)
    assert choice.stall_us == 0


def test_what_was_dropped_makes_what_reads_it_dearer() -> None:
    # With x gone, y would take ops 0 and 1: 2 bytes for 20 us. z gives 4 for op 2's 10.
    choice = planned(SLOW, 12)
    assert (names(choice), choice.peak_bytes, choice.recompute_us) == ({"x", "z"}, 12, 20)
