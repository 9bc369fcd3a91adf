"""Loops whose times settle at once, however busy the machine is."""

import pytest

from profiles.recording.device import Instruments
from runtime.training import planned_training
from tests.support.training.fake_time import CountingClock


@pytest.fixture(autouse=True)
def settled_times(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the device counts: what other tests leave there is no part of these steps.
    tools = Instruments(clock=CountingClock(), memory=None, kernels=None)
    monkeypatch.setattr(planned_training, "instruments_for", lambda device: tools)
