"""Random steps on the device; `tests.device.acceptance` tries 200."""

import pytest

from tests.device.random_steps import try_random_step

SEEDS = (0, 2, 3)
"""Their plans are made by rule: none depends on what a solver finds in its time."""


def test_a_step_swapped_on_line_keeps_room_for_what_ops_take_while_they_run() -> None:
    """The layer norms of this one take 6,144 bytes of its 55,296."""
    assert try_random_step(82, in_pages=True).faults == ()


@pytest.mark.parametrize("in_pages", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_wrong(seed: int, *, in_pages: bool) -> None:
    """To the byte, and with free memory in pieces, as a real allocator has it."""
    assert try_random_step(seed, in_pages=in_pages).faults == ()
