"""Steps that make what the plan moves: swapped on line, whatever gets at the memory."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from profiles.hooks.workload import Workload
from runtime import LoadedPlan
from runtime.storage.residency import TrackedStorage
from tests.support.planning.hardest_plans import everything_away
from tests.support.training.fixed_times import record_at_fixed_times

WIDTH = 64


def training(look: Callable[[torch.Tensor], None]) -> Workload:
    """Looks at the first weight when the last module is behind it, before the next anchor."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.randn(256, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        look(next(model.parameters()).detach())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def test_what_an_address_was_taken_of_stays_until_the_next_anchor() -> None:
    """It is there already when the address is taken, and may be what has to make room after."""
    profile = record_at_fixed_times(training(lambda _: None))
    held_bytes: list[int] = []

    def look(weight: torch.Tensor) -> None:
        weight.add(0)
        weight.data_ptr()
        swap = replay._stepper.first_steps.swap
        assert swap is not None
        swap.evict_all_but(set())
        held_bytes.append(weight.untyped_storage().nbytes())

    workload = training(look)
    replay = LoadedPlan(everything_away(profile)).attach(workload.model, workload.optimizer)
    with replay, replay.step() as statistics:
        workload.step()
    assert statistics.on_line
    assert held_bytes == [WIDTH * WIDTH * 4]


def test_what_finds_no_room_after_a_first_step_is_brought_back_before_it_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step raises, and the device has no room then for all that was moved out of the way."""
    profile = record_at_fixed_times(training(lambda _: None))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("the device is full")

    def look(_: torch.Tensor) -> None:
        swap = replay._stepper.first_steps.swap
        assert swap is not None
        swap.evict_all_but(set())
        monkeypatch.setattr(TrackedStorage, "swap_in", full)
        full()

    workload, plain = training(look), training(lambda _: None)
    weight = next(workload.model.parameters()).detach()
    replay = LoadedPlan(everything_away(profile)).attach(workload.model, workload.optimizer)
    with replay:
        with pytest.raises(torch.OutOfMemoryError), replay.step():
            workload.step()
        monkeypatch.undo()
        assert torch.equal(weight + 0, next(plain.model.parameters()))
        assert replay.boundary_restores == 1
    for one, other in zip(workload.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
