"""Steps that stall: how long they take, and what their copies run beside.

[Note: steps that follow each other] Copies of a plan cross the end of a step: some leave during one
and are given back in the next, others come back for it. A device that is waited for at the end of
each step has those run beside nothing, which a training does not do, nor what the plan is simulated
for. So a step is timed from where compute ends one to where it ends the next, and the host waits
for the step before, as one does that reads each loss.

A machine that others use computes faster at one time than at another, and compute is most of a
step. So steps without a plan are timed in turns with those that have one, and the plan is compared
with what it says on top of those.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch

from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Workload
from profiles.schema.units import US_PER_MS
from runtime import LoadedPlan
from runtime.proof.limited_device import Around
from runtime.proof.proof import STEPS_TO_FILL
from runtime.replay.replay import Replay
from tests.device.accelerator import accelerator
from tests.device.races import Entry
from tests.device.trainings import built_in, resident, source_of
from tests.device.trial_device import trial_device
from tests.gpu.bench_device import BenchAccelerator
from tests.gpu.methods import Task, planned

SOURCE = source_of("unet3d", size="32", features="16")
SHARE, TIMED_STEPS = 0.5, 3
ROUNDS, STEPS = 4, 5

Span = tuple[float, float]


class StallingStep(NamedTuple):
    """Medians of steps under a plan, and without one in turns with them; measured but for two.

    Attributes:
        step_us: A step with the plan.
        resident_us: A step without it.
        profiled_us: The same when the profile was recorded.
        added_us: What the plan says that it adds to that: stall, and ops that are run again.
        beside_compute: The share of the copies' time in which an op ran.
    """

    step_us: float
    resident_us: float
    profiled_us: float
    added_us: float
    beside_compute: float

    @property
    def ratio(self) -> float:
        """The step's time over what the plan says, on top of a step without it."""
        return self.step_us / (self.resident_us + self.added_us)


def stalling_step(bytes_per_us: float) -> StallingStep:
    """Plans a 3D U-Net at half its peak over a link of some rate, and trains it."""
    link = nominal_link("slow", bytes_per_us, bytes_per_us, latency_us=10.0)
    make, bench = built_in(SOURCE), BenchAccelerator(trial_device().device)
    torch.accelerator.reset_peak_memory_stats()
    resident(make, STEPS_TO_FILL)
    budget_bytes = int(SHARE * torch.accelerator.max_memory_allocated())
    task = Task(source=SOURCE, budget_bytes=budget_bytes, link=link, timed_steps=TIMED_STEPS)
    plan = planned(task, bench)
    workload, plain, extension = make(), make(), accelerator()
    trial_device().keep_to(link)
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        step_us, resident_us = _times_us(replay, workload, plain, bench.device)
        torch.accelerator.synchronize()
        extension.log(True)
        with replay.step():
            workload.step()
        torch.accelerator.synchronize()
    entries, spans = [Entry(*entry) for entry in extension.entries()], extension.spans()
    extension.log(False)
    certificate = plan.certificate
    return StallingStep(
        step_us=step_us,
        resident_us=resident_us,
        profiled_us=certificate.compute_us,
        added_us=certificate.beyond_us,
        beside_compute=_share_beside(entries, spans),
    )


def _times_us(
    replay: Replay, workload: Workload, plain: Workload, device: torch.device
) -> tuple[float, float]:
    """Times of steps with the plan and without; see [Note: steps that follow each other]."""
    planned: list[float] = []
    without: list[float] = []
    for _ in range(ROUNDS):
        with replay.unguarded():
            without += _between_ends_us(plain, nullcontext, device)
        planned += _between_ends_us(workload, replay.step, device)
    return median(planned), median(without)


def _between_ends_us(workload: Workload, around: Around, device: torch.device) -> list[float]:
    """Times of some steps, without the first ones, from where compute ends each to the next."""
    ended: list[torch.Event] = []
    for _ in range(STEPS):
        with around():
            workload.step()
        ended.append(torch.Event(device, enable_timing=True))
        ended[-1].record()
        if len(ended) > 1:
            ended[-2].synchronize()
    torch.accelerator.synchronize()
    passed = list(pairwise(ended))[1:]
    return [one.elapsed_time(other) * US_PER_MS for one, other in passed]


def _share_beside(entries: list[Entry], spans: list[tuple[int, float, float]]) -> float:
    copies, ops = [], []
    for number, began_us, ended_us in spans:
        entry = entries[number]
        if entry.name.startswith("copy to"):
            copies.append((began_us, ended_us))
        elif entry.name != "free":
            ops.append((began_us, ended_us))
    total_us = sum(ended - began for began, ended in copies)
    return _overlap_us(copies, ops) / total_us if total_us else 0.0


def _overlap_us(some: Iterable[Span], others: Iterable[Span]) -> float:
    """The time of some in which one of the others runs; the others run one after the other."""
    found = list(others)
    return sum(
        max(0.0, min(end, other_end) - max(begin, other_begin))
        for begin, end in some
        for other_begin, other_end in found
    )
