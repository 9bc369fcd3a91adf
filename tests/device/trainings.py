"""Trainings on the accelerator under test: without a plan, and under one."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Link, Profile, WorkloadSource
from profiles.workloads.build import build
from runtime import LoadedPlan, OffPlan, Replay
from tests.device.trial_device import trial_device
from tests.support.training.fixed_times import UNNAMED, record_at_fixed_times
from tests.support.training.recorded import differing, snapshot

LINK = nominal_link("test", 2_000.0, 2_000.0, latency_us=5.0)
STEPS = 6
PAGE_BYTES, PAGES_MORE = 2048, 4
"""CUDA's are of 2 MiB, beside storages that are a thousand times as large as those here."""
Build = Callable[[], Workload]


@dataclass
class Numbers:
    """What a training leaves, in host memory.

    Attributes:
        losses: Of each step.
        tensors: Parameters, buffers and optimizer states, by name.
        peaks_bytes: Of each step, as the allocator counts.
        fallbacks: Why steps fell back.
        left_plan: How many were swapped on line from some point on.
        shortcuts: How many skipped an update.
    """

    losses: list[float] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    peaks_bytes: list[int] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    left_plan: int = 0
    shortcuts: int = 0

    def same_as(self, other: "Numbers") -> bool:
        """Whether every number is the same, bit by bit."""
        return self.losses == other.losses and not differing(self.tensors, other.tensors)

    def faults(self, expected: "Numbers", budget_bytes: int) -> list[str]:
        """Returns what is wrong beside the training without a plan, and beyond a budget."""
        found = [] if self.same_as(expected) else ["the numbers are others"]
        found += [f"fell back: {why}" for why in self.fallbacks]
        over_bytes = max(self.peaks_bytes) - budget_bytes
        return found + ([f"{over_bytes} bytes over the budget"] if over_bytes > 0 else [])


def source_of(name: str, **settings: str) -> WorkloadSource:
    """Returns a built-in workload with settings."""
    return WorkloadSource(reference=name, settings=tuple(settings.items()), seed=0)


def built_in(source: WorkloadSource) -> Build:
    """Returns what builds a workload on the device, from the same seed each time."""
    return lambda: build_on(trial_device().device, lambda: build(source))


def recorded(make: Build, link: Link, source: WorkloadSource = UNNAMED) -> Profile:
    """Records the step of a training, which then has fixed times."""
    # What other trainings have left in circles would count as taken.
    gc.collect()
    return record_at_fixed_times(make(), source=source, link=link)


def plan_within(
    profile: Profile, share: float, time_limit_s: float, without: Without = Without.NOTHING
) -> Plan:
    """Returns a plan for a share of the peak, or for the smallest budget if that is more."""
    plan = partial(solve, profile, time_limit_s=time_limit_s, without=without)
    try:
        return plan(budget_bytes=int(share * profile.peak_bytes))
    except BudgetError as error:
        return plan(budget_bytes=error.smallest_budget_bytes)


def resident(make: Build, steps: int = STEPS) -> Numbers:
    """Trains without a plan."""
    workload, found = begun(make), Numbers()
    for _ in range(steps):
        found.losses.append(float(workload.step()))
    keep(workload, found)
    return found


def replayed(
    plan: Plan,
    make: Build,
    steps: int = STEPS,
    *,
    limited: bool = True,
    off_plan: OffPlan = OffPlan.RESIDENT,
    in_pages: bool = False,
) -> Numbers:
    """Trains under a plan, as users get it by default.

    Unless it is not `limited` the device has no more than the plan's budget, or in whole pages, and
    a few more.
    """
    workload, found = begun(make), Numbers()
    loaded = LoadedPlan(plan)
    capacity = trial_device().capacity(plan.budget_bytes)
    if in_pages:
        pages = -(-plan.budget_bytes // PAGE_BYTES) + PAGES_MORE
        capacity = trial_device().capacity(pages * PAGE_BYTES, PAGE_BYTES)
    with (
        loaded.attach(workload.model, workload.optimizer, off_plan=off_plan) as replay,
        capacity if limited else nullcontext(),
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
        found.left_plan, found.shortcuts = replay.left_plan, replay.shortcuts
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
    found.tensors = snapshot(workload)
