"""Trainings under plans that rebuild, each beside the same training without a plan."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.recording.device import device_of
from profiles.schema.profile import CPU, Profile
from runtime import Replay
from runtime.proof.limited_device import reached_storages
from runtime.replay.statistics import StepStatistics
from tests.support.training.beside import collect_circles
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.recorded import differing, snapshot

STEPS = 6

Build = Callable[[], Workload]


@dataclass
class Trained:
    """What a training has left.

    Attributes:
        losses: Of each step.
        numbers: All that the model and the optimizer keep.
        generator: The state of torch's generator.
        steps: What the replay says of its steps.
    """

    losses: list[float]
    numbers: dict[str, torch.Tensor]
    generator: torch.Tensor
    steps: list[StepStatistics] = field(default_factory=list)


def profile_of(build: Build, *, checkpointing: bool = True) -> Profile:
    torch.manual_seed(0)
    return record_at_fixed_times(build(), checkpointing=checkpointing)


def alone(build: Build, steps: int = STEPS) -> Trained:
    """Trains without a plan."""
    workload = _begin(build)
    losses, kept = [], torch.zeros(())
    for _ in range(steps):
        # The last loss is held, as it is while a step is recorded.
        kept = workload.step()
        losses.append(float(kept.detach().sum()))
    return Trained(losses, snapshot(workload), _generator_state())


def planned(build: Build, plan: Plan, steps: int = STEPS, *, watched: bool = True) -> Trained:
    """Trains under a plan; with no step watched but the first ones if so."""
    workload = _begin(build)
    losses, kept = [], torch.zeros(())
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(steps):
            replay.count(reached_storages(workload, device_of(workload.model)))
            with replay.step() if watched else replay.unwatched_step():
                kept = workload.step()
            losses.append(float(kept.detach().sum()))
        generator = _generator_state()
    return Trained(losses, snapshot(workload), generator, list(replay.steps))


def assert_alike(one: Trained, other: Trained) -> None:
    """Fails unless two trainings are equal bit by bit, and leave the generator in one state."""
    assert one.losses == other.losses
    assert differing(one.numbers, other.numbers) == []
    assert torch.equal(one.generator, other.generator)


def assert_as_planned(plan: Plan, trained: Trained, *, memory: bool = True) -> None:
    """Fails unless each step rebuilt what the plan says and took the bytes that it says."""
    drops = [drop for rebuild in plan.rebuilds for drop in rebuild.drops]
    for now in trained.steps:
        assert now.fallback is None
        if not now.on_line:
            assert now.rebuilt_bytes == sum(plan.sizes_bytes[drop.storage] for drop in drops)
            planned_ops = sum(len(rebuild.ops) for rebuild in plan.rebuilds)
            # The first step's ops are found by what they have made: none of another's is among
            # them, and none whose result nothing reads.
            assert 0 <= planned_ops - now.ops_run_again <= (planned_ops if now.step == 0 else 0)
        if memory and now.compares_memory and now.step > 1:
            assert now.memory_difference is None, str(now.memory_difference)


def _generator_state() -> torch.Tensor:
    kind = torch.get_default_device().type
    return (torch if kind == CPU else torch.get_device_module(kind)).get_rng_state()


def _begin(build: Build) -> Workload:
    collect_circles(torch.get_default_device())
    torch.manual_seed(7)
    workload = build()
    torch.manual_seed(3)
    return workload
