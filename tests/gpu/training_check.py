"""Training with a plan against training without it, on the device at hand."""

from dataclasses import dataclass

import torch

from planner.plan.plan import Plan
from profiles.schema.profile import Link
from runtime.proof.training import Training
from runtime.replay.replay import Replay
from runtime.replay.statistics import StepStatistics
from tests.gpu.bench_device import BenchDevice
from tests.gpu.cases import Case
from tests.gpu.methods import Task, planned

STEPS_TO_SETTLE = 3


@dataclass(frozen=True, kw_only=True)
class TrainingCheck:
    """What two trainings from one seed showed; measured, unless the name says otherwise.

    Attributes:
        workload: Which, with its settings.
        steps: Steps of each training.
        repeats: Two trainings without the plan gave the same bits; if not, nothing below about
            numbers says anything of the plan.
        losses_equal: Every loss is the same, bit by bit.
        tensors_equal: So are all parameters, buffers, gradients and optimizer states at the end.
        tensors_compared: Their number.
        fallbacks: Steps that fell back to resident.
        misses: Ops that asked for a storage that was away.
        budget_bytes: The budget.
        peak_without_bytes: Most bytes allocated without the plan.
        peak_simulated_bytes: The peak that the plan announces.
        peak_bytes: Most bytes allocated with the plan.
        reserved_bytes: Most bytes the allocator held then; None where there is none.
        enforced: Whether that was with the budget enforced by the device.
        out_of_memory: What the training said when it was enforced; empty if it went well.
        step_without_us: Median step without the plan.
        step_simulated_us: The step that the plan announces.
        step_us: Median step with the plan.
        stall_simulated_us: The stall that the plan announces.
        d2h_bytes: Bytes copied to the host per step.
        host_pool_bytes: The host pool.
    """

    workload: str
    steps: int
    repeats: bool
    losses_equal: bool
    tensors_equal: bool
    tensors_compared: int
    fallbacks: int
    misses: int
    budget_bytes: int
    peak_without_bytes: int
    peak_simulated_bytes: int
    peak_bytes: int
    reserved_bytes: int | None
    enforced: bool
    out_of_memory: str
    step_without_us: float
    step_simulated_us: float
    step_us: float
    stall_simulated_us: float
    d2h_bytes: int
    host_pool_bytes: int

    @property
    def passed(self) -> bool:
        """Whether numbers repeat and are equal, every step was replayed, and the budget held."""
        equal = self.repeats and self.losses_equal and self.tensors_equal
        held = self.enforced and self.peak_bytes <= self.budget_bytes
        return equal and held and self.fallbacks == 0

    @property
    def step_ratio(self) -> float:
        """Measured over simulated step."""
        return self.step_us / self.step_simulated_us


def check_training(case: Case, limited: BenchDevice, link: Link, timed_steps: int) -> TrainingCheck:
    """Trains without a plan, plans for a share of the peak, and trains with the plan.

    Args:
        case: The workload and its budget.
        limited: The device.
        link: Its link.
        timed_steps: Steps whose time counts, after those that settle.
    """
    without = _train_without(case, limited, timed_steps)
    limited.tidy()
    again = _train_without(case, limited, timed_steps)
    limited.tidy()
    budget_bytes = int(without.peak_bytes * case.budget_share)
    task = Task(source=case.source(), budget_bytes=budget_bytes, link=link, timed_steps=timed_steps)
    plan = planned(task, limited)
    limited.tidy()
    out_of_memory = ""
    try:
        with limited.limit(budget_bytes):
            trained, steps = _train_with(plan, case, limited, timed_steps)
    except torch.OutOfMemoryError as error:
        out_of_memory = " ".join(str(error).split())
    if out_of_memory:
        limited.tidy()
        trained, steps = _train_with(plan, case, limited, timed_steps)
    repeats = without.same_numbers(again)
    return _report(case, plan, without, trained, steps, repeats, out_of_memory, timed_steps)


def _train_without(case: Case, limited: BenchDevice, timed_steps: int) -> Training:
    training = Training(limited.build(case.source()), limited)
    for _ in range(STEPS_TO_SETTLE + timed_steps):
        training.step()
    training.finish()
    return training


def _train_with(
    plan: Plan, case: Case, limited: BenchDevice, timed_steps: int
) -> tuple[Training, tuple[StepStatistics, ...]]:
    workload = limited.build(case.source())
    training = Training(workload, limited)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(STEPS_TO_SETTLE + timed_steps):
            training.step(replay.step)
    # The replay is closed: everything is back on the device.
    training.finish()
    return training, tuple(replay.steps)


def _report(
    case: Case,
    plan: Plan,
    without: Training,
    trained: Training,
    steps: tuple[StepStatistics, ...],
    repeats: bool,
    out_of_memory: str,
    timed_steps: int,
) -> TrainingCheck:
    about = plan.certificate
    return TrainingCheck(
        workload=case.title,
        steps=len(steps),
        repeats=repeats,
        losses_equal=without.loss_bytes == trained.loss_bytes,
        tensors_equal=without.digests == trained.digests,
        tensors_compared=len(trained.digests),
        fallbacks=sum(step.fallback is not None for step in steps),
        misses=sum(step.misses for step in steps),
        budget_bytes=plan.budget_bytes,
        peak_without_bytes=without.peak_bytes,
        peak_simulated_bytes=about.peak_bytes,
        peak_bytes=trained.peak_bytes,
        reserved_bytes=trained.reserved_bytes,
        enforced=not out_of_memory,
        out_of_memory=out_of_memory,
        step_without_us=without.step_us(timed_steps),
        step_simulated_us=about.simulated_step_us,
        step_us=trained.step_us(timed_steps),
        stall_simulated_us=about.simulated_stall_us,
        d2h_bytes=steps[-1].d2h_bytes,
        host_pool_bytes=plan.host_pool_bytes,
    )
