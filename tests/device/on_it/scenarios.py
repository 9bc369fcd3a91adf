"""The hardest plans on the device: the right numbers, and no two accesses that nothing orders."""

import pytest

from tests.device.scenarios import SCENARIOS, faults


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_races(name: str) -> None:
    assert faults(name, seed=1) == []
