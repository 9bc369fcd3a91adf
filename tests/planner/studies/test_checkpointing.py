"""What checkpointing would cost, on a step worked out by hand."""

from dataclasses import replace

from planner.studies.checkpointing import full_checkpointing
from tests.support.planning.tasks import steps_of_ten, task
from tests.support.planning.toys import activation, fixed


def test_checkpointing_pays_a_second_forward_for_what_blocks_make_inside() -> None:
    # Modules m0 to m3 run forward; a is made and read by m1 alone. Backward begins in slot 4. It is
    # gone from slot 2 on until slot 6 reads it, after m1 has run again: 10 us.
    a = activation("a", 6, 1, 6)
    b = activation("b", 6, 0, 1, 7)
    profile = steps_of_ten(8, [a, replace(b, shown_at=3), fixed("w", 9, 4)])
    cost = full_checkpointing(task(profile, 15))
    assert (cost.blocks, cost.recompute_us, cost.peak_bytes) == (1, 10, 15)
