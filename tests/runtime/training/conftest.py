"""Loops whose times settle at once, however busy the machine is."""

import pytest

from runtime.training import planned_training
from tests.support.training.fake_time import counting_tools


@pytest.fixture(autouse=True)
def settled_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = counting_tools()
    monkeypatch.setattr(planned_training, "instruments_for", lambda device: tools)
