"""The proof of a plan on a device that counts its own memory and enforces a budget by itself.

[Note: one training after the other] On the emulated device two trainings take turns. Here each has
the device to itself: beside another model the peak of neither could be told, and under the budget
there would be no room for both. So the second is built when the first has gone, from the same
seed. If their numbers differ, one more without the plan tells whether they ever repeat: many of a
GPU's algorithms do not. What a machine that slows down meanwhile does to step times is not seen.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from runtime.proof.limited_device import LimitedDevice
from runtime.proof.measured_training import FinishedTraining, MeasuredTraining
from runtime.proof.report import ProofReport
from runtime.replay.load import first_fault
from runtime.replay.replay import FallbackWarning, Replay

STEPS_TO_FILL = 3
"""The first step makes the optimizer's states, the second the buckets of DistributedDataParallel;
the third has all there is to hold."""

Attach = Callable[[Plan, Workload], Replay]
Tell = Callable[[str, int, int], None]


def prove_on_device(
    plan: Plan,
    ground: LimitedDevice,
    *,
    build: Callable[[], Workload],
    build_alone: Callable[[], Workload],
    attach: Attach,
    steps: int,
    timed_steps: int,
    tell: Tell,
) -> ProofReport:
    """Trains without the plan, then under its budget without it, then under its budget with it.

    Args:
        plan: The plan.
        ground: The device.
        build: Builds the workload on the device, from the same seed each time.
        build_alone: As `build`, for the training that runs out of memory.
        attach: Attaches the plan.
        steps: Steps of each training.
        timed_steps: How many of the last ones are timed.
        tell: Told of every step.

    Raises:
        PlanMismatchError: The plan was made for another model, or ran out of memory.
    """
    without = _train_without(plan, ground, build, steps, tell)
    message = _run_out_of_memory(plan, ground, build_alone, tell)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        with_plan, replay = _train_with(plan, ground, build, attach, steps, tell)
    told = tuple(str(w.message) for w in caught if issubclass(w.category, FallbackWarning))
    repeats = with_plan.same_numbers(without) or _train_without(
        plan, ground, build, steps, tell
    ).same_numbers(without)
    return _report(plan, without, message, with_plan, replay, told, timed_steps, repeats)


def _train_without(
    plan: Plan, ground: LimitedDevice, build: Callable[[], Workload], steps: int, tell: Tell
) -> FinishedTraining:
    workload = build()
    fault = first_fault(plan, workload.model, workload.optimizer)
    if fault is not None:
        raise PlanMismatchError(fault)
    training = MeasuredTraining(workload)
    for done in range(steps):
        tell("without the plan", done, steps)
        training.step(nullcontext, ground)
    tell("without the plan", steps, steps)
    return training.finished()


def _run_out_of_memory(
    plan: Plan, ground: LimitedDevice, build: Callable[[], Workload], tell: Tell
) -> str:
    """Trains without the plan under its budget; returns what went wrong, or nothing."""
    try:
        with ground.limit(plan.budget_bytes):
            workload = build()
            for done in range(STEPS_TO_FILL):
                tell("without the plan, under its budget", done, STEPS_TO_FILL)
                ground.measure(workload, nullcontext)
    except torch.OutOfMemoryError as error:
        return " ".join(str(error).split())
    return ""


def _train_with(
    plan: Plan,
    ground: LimitedDevice,
    build: Callable[[], Workload],
    attach: Attach,
    steps: int,
    tell: Tell,
) -> tuple[FinishedTraining, Replay]:
    try:
        with ground.limit(plan.budget_bytes):
            workload = build()
            training = MeasuredTraining(workload)
            with attach(plan, workload) as replay:
                for done in range(steps):
                    tell("with the plan, under its budget", done, steps)
                    training.step(replay.step, ground)
                tell("with the plan, under its budget", steps, steps)
    except torch.OutOfMemoryError as error:
        raise PlanMismatchError(
            f"Under the plan the training ran out of memory. {' '.join(str(error).split())} The "
            "allocator's free memory may lie in pieces: set PYTORCH_CUDA_ALLOC_CONF="
            "expandable_segments:True, or solve for a lower budget. If the step has changed since "
            "it was recorded, record it again with 'plan profile'."
        ) from error
    return training.finished(), replay


def _report(
    plan: Plan,
    without: FinishedTraining,
    message: str,
    with_plan: FinishedTraining,
    replay: Replay,
    told: tuple[str, ...],
    timed_steps: int,
    repeats: bool,
) -> ProofReport:
    replayed, certificate = tuple(replay.steps), plan.certificate
    return ProofReport(
        losses=tuple(float(loss) for loss in without.losses),
        repeats=repeats,
        losses_equal=without.loss_bytes == with_plan.loss_bytes,
        tensors_equal=without.digests == with_plan.digests,
        tensors_compared=len(without.digests),
        budget_bytes=plan.budget_bytes,
        peak_without_bytes=without.peak_bytes,
        peak_with_bytes=with_plan.peak_bytes,
        peak_planned_bytes=certificate.peak_bytes,
        out_of_memory_without_plan=bool(message),
        out_of_memory_message=message,
        step_without_us=without.steps_us(timed_steps),
        step_with_us=with_plan.steps_us(timed_steps),
        profiled_step_us=certificate.compute_us,
        simulated_step_us=certificate.simulated_step_us,
        d2h_bytes=replayed[-1].d2h_bytes,
        h2d_bytes=replayed[-1].h2d_bytes,
        stall_us=None,
        simulated_stall_us=certificate.simulated_stall_us,
        overrun_us=None,
        misses=sum(step.misses for step in replayed),
        fallbacks=sum(step.fallback is not None for step in replayed),
        memory_differences=(),
        memory_compared_steps=0,
        warnings=told,
        resident_growth_without_bytes=0,
        resident_growth_with_bytes=0,
        host_pool_bytes=plan.host_pool_bytes,
        summary=replay.summary(),
    )
