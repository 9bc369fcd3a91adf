"""Built-in workloads under a plan, on the device: numbers, bytes, capacity."""

import pytest

from tests.device.built_in import WORKLOADS, replay_built_in

SHARES = {
    **dict.fromkeys(("vit", "gpt2", "bert", "llama"), (0.6, 0.0)),
    **dict.fromkeys(("unet3d", "resnet50"), (0.4,)),
}
"""Of the peak; with 0 the smallest budget there is a plan for."""


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_built_in_workload(name: str) -> None:
    for row in replay_built_in(name, SHARES[name], steps=4, time_limit_s=1.0):
        assert row.is_bit_equal
        assert row.fallbacks == 0
        assert row.peak_bytes <= row.budget_bytes
