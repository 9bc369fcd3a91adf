"""Gaps and their parts, and the memory that they are in the way of."""

from planner.problem.gaps import Gap, candidate_gaps, gap_parts
from profiles.schema.memory import slot_memory
from tests.support.planning.toys import activation, fixed, gradient, resident, toy


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


def test_parts_of_a_gap_are_all_its_shorter_stretches() -> None:
    parts = gap_parts([Gap(0, "x", 5, 1, 3)], 4)
    assert [(gap.first_slot, gap.next_use_slot) for gap in parts] == [(1, 2), (2, 3)]
    assert gap_parts([Gap(0, "x", 5, 0, 1000)], 2000) == ()
