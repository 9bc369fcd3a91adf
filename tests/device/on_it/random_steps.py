"""Random steps on the device; `tests.device.acceptance` tries 200."""

import pytest

from tests.device.random_steps import try_random_step


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_wrong(seed: int) -> None:
    outcome = try_random_step(seed)
    assert outcome.faults == ()
    assert outcome.over_bytes == 0
