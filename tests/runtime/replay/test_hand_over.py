"""What a replay has away between two steps goes to what swaps on line, and back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from planner.plan.plan import Boundary, Plan
from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Training, Workload
from profiles.recording.device import device_of, instruments_for
from profiles.schema.profile import Profile
from runtime import LoadedPlan, Replay
from runtime.beyond_capacity.limited_steps import LimitedSteps
from runtime.lanes import emulated
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    periodic,
    returning_at_boundary,
)
from tests.support.training.beside import beside_another
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.interrupting import Tracer, tensors_of, training
from tests.support.training.plain_steps import skipping_updates

SLOW_LINK = nominal_link("slow", 10_000.0, 10_000.0, latency_us=100.0)
"""So that what is on its way when a step ends is so for a while."""
LATE_S = 0.005
"""How late each copy starts while storages are handed over."""
LIMIT_BYTES = 8 * 1024

PLANS: dict[str, Callable[[Profile], Plan]] = {
    "away": periodic,
    "leaving": lambda profile: leaving_at_boundary(
        everything_away(profile, boundary=Boundary.PERIODIC)
    ),
    "returning": lambda profile: returning_at_boundary(
        everything_away(profile, boundary=Boundary.PERIODIC)
    ),
}


def recorded() -> Profile:
    return record_at_fixed_times(training(), link=SLOW_LINK)


@contextmanager
def both(plan: Plan, workload: Workload) -> Iterator[tuple[LimitedSteps, Replay]]:
    """What swaps on line, and what replays."""
    belongs = Training(model=workload.model, optimizer=workload.optimizer)
    with (
        LimitedSteps(belongs, LIMIT_BYTES, instruments_for(device_of(belongs.model))) as limited,
        LoadedPlan(beside_another(plan)).attach(belongs.model, belongs.optimizer) as replay,
    ):
        yield limited, replay


def assert_same(workload: Workload, plain: Workload) -> None:
    found = tensors_of(workload)
    with torch._C._DisableTorchDispatch():
        for name, value in tensors_of(plain).items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", PLANS)
def test_what_is_on_its_way_arrives_before_anything_makes_room(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    carry = emulated.carry

    def carry_late(*arguments: Any) -> int:
        time.sleep(late_s)
        return carry(*arguments)

    monkeypatch.setattr(emulated, "carry", carry_late)
    plan = PLANS[name](recorded())
    workload, plain = training(), training()
    with both(plan, workload) as (limited, replay):
        for _ in range(4):
            with replay.step():
                workload.step()
                late_s = LATE_S
            replay.hand_over(limited.swap)
            late_s = 0.0
            with limited.step():
                workload.step()
            replay.take_over(limited.swap)
        replay.hand_over(limited.swap)
        limited.bring_back()
        assert replay.fallbacks == 0
        for _ in range(8):
            plain.step()
        assert_same(workload, plain)


@pytest.mark.parametrize("name", PLANS)
def test_an_interrupt_of_a_hand_over_loses_nothing(name: str) -> None:
    """It is asked for again, as the loop does before its next step."""
    plan = PLANS[name](recorded())
    plain = training()
    for _ in range(2):
        plain.step()
    was_raised = True
    for at in (40, 400, 1000, 2000, 4000, 10**9):
        workload = training()
        with both(plan, workload) as (limited, replay):
            for _ in range(2):
                with replay.step():
                    workload.step()
            was_raised = _interrupted(at, lambda: replay.hand_over(limited.swap))
            replay.hand_over(limited.swap)
            _interrupted(at, lambda: replay.take_over(limited.swap))
            replay.take_over(limited.swap)
            replay.hand_over(limited.swap)
            limited.bring_back()
            assert_same(workload, plain)
    assert not was_raised, "the last of these is behind the end"


def _interrupted(at: int, move: Callable[[], None]) -> bool:
    tracer = Tracer([at])
    try:
        with tracer.on():
            move()
    except KeyboardInterrupt:
        return True
    return False


def scaled() -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    return skipping_updates(model, torch.randn(256, 64), torch.get_default_device().type, 200)


@pytest.mark.parametrize("name", PLANS)
def test_first_steps_without_an_update_keep_to_the_budget(name: str) -> None:
    plan = PLANS[name](_with_states())
    workload, plain = scaled(), scaled()
    with LoadedPlan(beside_another(plan)).attach(workload.model, workload.optimizer) as replay:
        on_line_steps = _train(replay, workload, plain)
    assert on_line_steps == [True] * 7 + [False] * 5
    assert_same(workload, plain)


def _with_states() -> Profile:
    workload = scaled()
    for _ in range(8):
        workload.step()
    return record_at_fixed_times(workload)


def _train(replay: Replay, workload: Workload, plain: Workload) -> list[bool]:
    on_line_steps = []
    for _ in range(12):
        with replay.step() as statistics:
            loss = workload.step()
        assert torch.equal(loss, plain.step())
        assert statistics.fallback is None
        on_line_steps.append(statistics.on_line)
    return on_line_steps
