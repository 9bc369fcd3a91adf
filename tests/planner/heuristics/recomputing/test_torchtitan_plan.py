"""torchtitan's keep, recompute or offload, worked out by hand."""

from planner.heuristics.recomputing.choice import Choice
from planner.heuristics.recomputing.torchtitan_plan import TORCHTITAN_PLAN
from profiles.schema.profile import Link
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import SLOW, toy_link
from tests.support.recompute.forward_backward import asked, never, two_blocks


def planned(budget_bytes: int, link: Link) -> Choice:
    return checked(TORCHTITAN_PLAN.rule(asked(two_blocks(link), budget_bytes), never))


def names(choice: Choice) -> set[str]:
    return {gap.name for gap in choice.dropped}


def test_what_hides_in_its_own_layer_is_offloaded_for_nothing() -> None:
    # x takes 4 us; layer a takes 20 forward and 10 backward. It is gone when b has ended, after
    # slot 3, and comes back when b begins backward, in slot 5. Of b, the last one, nothing goes.
    choice = planned(16, toy_link())
    (swap,) = choice.swaps
    assert (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot) == (2, 3, 5)
    assert (names(choice), choice.peak_bytes, choice.step_us) == (set(), 16, 80)


def test_the_rest_is_recomputed() -> None:
    choice = planned(12, toy_link())
    assert (names(choice), choice.peak_bytes, choice.step_us) == ({"z"}, 12, 90)
    assert len(choice.swaps) == 1


def test_nothing_is_offloaded_that_does_not_hide() -> None:
    choice = planned(12, SLOW)
    assert (names(choice), choice.peak_bytes, choice.step_us) == ({"x", "z"}, 12, 100)
    assert choice.swaps == ()


def test_what_fits_is_left_alone() -> None:
    assert names(planned(20, toy_link())) == set()
    assert planned(20, toy_link()).swaps == ()
