"""A loop within a budget, on the device: recorded, planned and replayed while it trains."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import runtime
from profiles.recording.device import instruments_for
from runtime.training import planned_training
from runtime.training.course import Way
from tests.device.accelerator import device
from tests.device.layers import layers
from tests.support.training.fake_time import CountingClock

ROWS = (256, 160)
STEPS = 24


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    with device():
        model = layers(6)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    rows = torch.randn(ROWS[number % len(ROWS)], 32, device=device())
    loss = (model(rows) - rows).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_lengths_that_vary_train_the_same_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = replace(instruments_for(device()), clock=CountingClock())
    monkeypatch.setattr(planned_training, "instruments_for", lambda _: tools)
    model, optimizer = training()
    expected = [step(model, optimizer, number) for number in range(STEPS)]
    model, optimizer = training()
    found = []
    with runtime.within(model, optimizer, budget="70%", plans=tmp_path, time_limit_s=1.0) as memory:
        for number in range(STEPS):
            memory.wait_for_plans()
            with memory.step():
                found.append(step(model, optimizer, number))
    assert found == expected
    assert memory.tally[Way.REPLAYED] > 0
    assert memory.tally[Way.UNPLANNED] == 0
