"""Storages that go from a replay to what swaps on line and back, none of them waited for between.

Host memory may change hands under way, and must not be freed: nothing orders that with a copy.
"""

import pytest

from profiles.hardware.links import nominal_link
from profiles.recording.device import build_on
from tests.device.accelerator import device
from tests.device.races import races
from tests.device.trial_device import trial_device
from tests.runtime.replay.test_hand_over import PLANS, assert_same, both, recorded
from tests.support.training.interrupting import training

LINK = nominal_link("slow", 200.0, 200.0, latency_us=300.0)


@pytest.mark.parametrize("name", ["away", "returning"])
def test_no_copy_loses_its_host_memory(name: str) -> None:
    with device():
        plan = PLANS[name](recorded())
    plain = build_on(device(), training)
    for _ in range(2):
        plain.step()
    with trial_device().disturbed(1, LINK, 400.0) as log:
        workload = build_on(device(), training)
        with both(plan, workload) as (limited, replay):
            for _ in range(2):
                with replay.step():
                    workload.step()
            replay.hand_over(limited.swap)
            replay.take_over(limited.swap)
            replay.hand_over(limited.swap)
            limited.bring_back()
    assert races(log) == []
    assert_same(workload, plain)
