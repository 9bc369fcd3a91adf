"""Built-in workloads under a plan, on the device: numbers, bytes, capacity."""

import pytest

from tests.device.built_in import replay_built_in

SHARES = {"gpt2": (0.6,), "llama": (0.0,)}
"""Of the peak; with 0 the smallest budget. `tests.device.acceptance` has all of them."""


@pytest.mark.parametrize("name", SHARES)
def test_a_built_in_workload(name: str) -> None:
    for row in replay_built_in(name, SHARES[name], steps=4, time_limit_s=1.0):
        assert row.faults == ()
