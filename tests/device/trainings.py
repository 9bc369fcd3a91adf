"""Trainings on the asynchronous device: without a plan, and under one."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from planner.plan.plan import Plan
from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on
from profiles.recording.record import record
from profiles.schema.profile import Profile, WorkloadSource
from profiles.workloads.build import build
from runtime import LoadedPlan, Replay
from tests.device.accelerator import accelerator, device

LINK = nominal_link("test", 2_000.0, 2_000.0, latency_us=5.0)
STEPS = 6
Build = Callable[[], Workload]


@dataclass
class Numbers:
    """What a training leaves, in host memory.

    Attributes:
        losses: Of each step.
        tensors: Parameters, buffers and optimizer states, in order.
        peaks_bytes: Of each step, as the allocator counts.
        fallbacks: Why steps fell back.
    """

    losses: list[float] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    peaks_bytes: list[int] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)

    def same_as(self, other: "Numbers") -> bool:
        """Whether every number is the same, bit by bit."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return self.losses == other.losses and all(_same_bits(a, b) for a, b in pairs)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(
        one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
    )


def source_of(name: str, **settings: str) -> WorkloadSource:
    """Returns a built-in workload with settings."""
    return WorkloadSource(reference=name, settings=tuple(settings.items()), seed=0)


def built_in(source: WorkloadSource) -> Build:
    """Returns what builds a workload on the device, from the same seed each time."""
    return lambda: build_on(device(), lambda: build(source))


def recorded(make: Build, source: WorkloadSource | None = None) -> Profile:
    """Records the step of a training."""
    # What other trainings have left in circles would count as taken.
    gc.collect()
    return record(make(), source=source or source_of(""), link=LINK)


def resident(make: Build, steps: int = STEPS) -> Numbers:
    """Trains without a plan."""
    workload, found = begun(make), Numbers()
    for _ in range(steps):
        found.losses.append(float(workload.step()))
    keep(workload, found)
    return found


def replayed(plan: Plan, make: Build, steps: int = STEPS, *, limited: bool = True) -> Numbers:
    """Trains under a plan, as users get it by default.

    Unless it is not `limited` the device has no more than the plan's budget.
    """
    workload, found = begun(make), Numbers()
    with (
        LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay,
        capacity(plan.budget_bytes) if limited else nullcontext(),
    ):
        for _ in range(steps):
            with replay.step():
                # Before the first one all of the model is there.
                torch.accelerator.reset_peak_memory_stats()
                loss = workload.step()
            found.peaks_bytes.append(torch.accelerator.max_memory_allocated())
            found.losses.append(float(loss))
            del loss
        found.fallbacks = fallbacks_of(replay)
    keep(workload, found)
    return found


def fallbacks_of(replay: Replay) -> list[str]:
    """Returns why steps fell back."""
    return [step.fallback for step in replay.steps if step.fallback is not None]


def begun(make: Build) -> Workload:
    """Returns a workload that is about to train, from the same numbers each time."""
    gc.collect()
    workload = make()
    torch.accelerator.synchronize()
    torch.manual_seed(5)
    return workload


def keep(workload: Workload, found: Numbers) -> None:
    """Keeps what a training leaves."""
    states = workload.optimizer.state.values()
    held = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
    found.tensors = [v.cpu() for v in (*workload.model.state_dict().values(), *held)]


@contextmanager
def capacity(size_bytes: int) -> Iterator[None]:
    """Has the device refuse more memory than that."""
    torch.accelerator.empty_cache()
    accelerator().set_capacity(size_bytes)
    try:
        yield
    finally:
        accelerator().set_capacity(accelerator().total_bytes())
