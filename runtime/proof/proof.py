"""The proof of a plan: train twice from one seed, without and with it, and compare every bit.

[Note: beside each other, or one after the other] On the emulated device, whose memory is the
host's, both trainings are there at once, and their timed steps take turns: a machine that slows
down slows both. On a GPU each has the device to itself: beside another model the peak of neither
could be told, and under the budget there would be no room for both. So there the second is built
when the first has gone, from the same seed. If their numbers differ, one more without the plan
shows whether they ever repeat: many of a GPU's algorithms do not. What a machine that slows down
meanwhile does to step times is not seen.
"""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.recording.device import device_at_hand, device_of
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.profile import CPU
from profiles.schema.progress import Progress, silent
from runtime.host.host_memory import check_pools_fit
from runtime.proof.limited_device import (
    Around,
    LimitedAccelerator,
    LimitedDevice,
    LimitedEmulator,
    reached_storages,
)
from runtime.proof.report import ProofReport
from runtime.proof.training import Training
from runtime.replay.load import LoadedPlan, device_fault, first_fault
from runtime.replay.replay import Replay
from runtime.replay.statistics import FallbackWarning

STEPS_TO_FILL = 3
"""The first step makes the optimizer's states, the second the buckets of DistributedDataParallel;
the third has all there is to hold."""

Attach = Callable[[Plan, Workload], Replay]


def attach_plan(plan: Plan, workload: Workload) -> Replay:
    """Attaches a plan as any training would."""
    return LoadedPlan(plan).attach(workload.model, workload.optimizer)


def prove(
    plan: Plan,
    *,
    build: Callable[[], Workload],
    steps: int = 6,
    timed_steps: int = 3,
    progress: Progress | None = None,
    build_alone: Callable[[], Workload] | None = None,
    threads: int | None = None,
    attach: Attach = attach_plan,
    device: LimitedDevice | None = None,
) -> ProofReport:
    """Trains without the plan, then under its budget without it, then under its budget with it.

    On the emulated device the first `steps - timed_steps` steps are watched (every op seen, memory
    counted, the budget enforced); the others run without that, for their time. A GPU counts and
    enforces by itself, and all steps are alike.

    Args:
        build: Builds the workload anew, from the same seed each time.
        steps: Steps of each training.
        timed_steps: How many of the last ones are timed; fewer than `steps`.
        build_alone: As `build`, for the training that runs out of memory: one worker of many may
            do so where the others do not, so its steps must not wait for theirs.
        threads: Threads that ops of the emulated device run on; those of the plan's if None.
        attach: Attaches the plan to what is trained with it.
        device: Where to train; the plan's device if None.

    Raises:
        WorkloadError: There is no step to watch or none to time.
        PlanMismatchError: The plan was made for another model, or ran out of memory.
        SwapplanError: The host has no room for the plan's host pool.
    """
    _check(plan, steps, timed_steps)
    if plan.device.kind == CPU:
        torch.set_num_threads(threads or plan.device.compute_threads)
    device = device or limited_device(plan.device.kind)
    turns = timed_steps if device.in_host_memory else 0
    trial = _Trial(plan, device, build, steps - turns, turns, progress or silent)
    without = trial.without_plan()
    message = trial.out_of_memory(build_alone or build)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        with_plan, replay = trial.with_plan(attach, without)
    warned = tuple(str(w.message) for w in caught if issubclass(w.category, FallbackWarning))
    without.finish()
    with_plan.finish()
    same = with_plan.same_numbers(without)
    repeats = device.in_host_memory or same or trial.without_plan().same_numbers(without)
    return _report(trial, timed_steps, without, with_plan, replay, message, warned, repeats)


def _check(plan: Plan, steps: int, timed_steps: int) -> None:
    if not 0 < timed_steps < steps:
        raise WorkloadError(
            f"{steps} steps with {timed_steps} timed leave none to watch or none to time. Ask for "
            "at least 2 steps."
        )
    fault = device_fault(plan)
    if fault is not None:
        raise PlanMismatchError(fault)
    check_pools_fit(plan.host_pool_bytes)


def limited_device(kind: str) -> LimitedDevice:
    """Returns this machine's device of a kind, to be measured and limited."""
    return LimitedEmulator() if kind == CPU else LimitedAccelerator(device_at_hand(kind))


@dataclass(frozen=True)
class _Trial:
    """What the trainings of one proof have in common."""

    plan: Plan
    device: LimitedDevice
    build: Callable[[], Workload]
    steps: int
    turns: int
    progress: Progress

    def without_plan(self) -> Training:
        """Trains as anyone would: no hooks, no plan, memory only counted."""
        training = Training(self.build(), self.device)
        fault = first_fault(self.plan, training.workload.model, training.workload.optimizer)
        if fault is not None:
            raise PlanMismatchError(fault)
        self._train(training, nullcontext, "without the plan")
        if not self.device.in_host_memory:
            training.finish()
        return training

    def out_of_memory(self, build: Callable[[], Workload]) -> str:
        """Trains without the plan under its budget; returns what went wrong, or nothing."""
        try:
            with self.device.limit(self.plan.budget_bytes):
                training = Training(build(), self.device)
                for done in range(STEPS_TO_FILL):
                    self.progress("without the plan, under its budget", done, STEPS_TO_FILL)
                    training.step()
        except torch.OutOfMemoryError as error:
            return " ".join(str(error).split())
        return ""

    def with_plan(self, attach: Attach, without: Training) -> tuple[Training, Replay]:
        """Trains with the plan under its budget, then takes turns with the training without it.

        Copies that are under way when a step with the plan ends go on during the step without it,
        so a wait at the begin of a step is measured shorter than it is in training.
        """
        what = "with the plan" if self.turns else "with the plan, under its budget"
        replay: Replay | None = None
        try:
            # It is closed where no limit holds: that brings back all there is.
            with ExitStack() as attached, self.device.limit(self.plan.budget_bytes):
                training = Training(self.build(), self.device)
                workload = training.workload
                replay = attached.enter_context(attach(self.plan, workload))
                self._train(training, replay.step, what, partial(_count_reached, replay, workload))
                for done in range(self.turns):
                    self.progress("timing both in turns", done, self.turns)
                    with replay.unguarded():
                        without.step(watched=False)
                    training.step(replay.unwatched_step, watched=False)
        except torch.OutOfMemoryError as error:
            raise PlanMismatchError(self._out_of_memory_text(replay, error)) from error
        return training, replay

    def _train(
        self,
        training: Training,
        around: Around,
        what: str,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        training.begin()
        for done in range(self.steps):
            self.progress(what, done, self.steps)
            before_step()
            training.step(around)
        self.progress(what, self.steps, self.steps)

    def _out_of_memory_text(self, replay: Replay | None, error: torch.OutOfMemoryError) -> str:
        said = " ".join(str(error).split())
        text = f"Under the plan the training ran out of memory. {said}"
        difference = replay.steps[-1].memory_difference if replay and replay.steps else None
        if difference is None:
            return f"{text} {self.device.advice}"
        return (
            f"{text} In {difference}. Let go of it before that anchor, or record the training as "
            "it is now with 'plan profile'."
        )


def _count_reached(replay: Replay, workload: Workload) -> None:
    replay.count(reached_storages(workload, device_of(workload.model)))


def _report(
    trial: _Trial,
    timed_steps: int,
    without: Training,
    with_plan: Training,
    replay: Replay,
    message: str,
    warned: tuple[str, ...],
    repeats: bool,
) -> ProofReport:
    plan, seen = trial.plan, trial.device.in_host_memory
    certificate, replayed = plan.certificate, tuple(replay.steps)
    timed = replayed[-timed_steps:]
    compared = [step for step in replayed if step.compares_memory and seen]
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
        d2h_bytes=timed[-1].d2h_bytes,
        h2d_bytes=timed[-1].h2d_bytes,
        rebuilt_bytes=timed[-1].rebuilt_bytes,
        ops_run_again=timed[-1].ops_run_again,
        rebuild_us=median(step.rebuild_us for step in timed),
        recompute_us=certificate.recompute_us,
        capture_us=median(step.capture_us for step in timed),
        stall_us=median(step.stall_us for step in timed) if seen else None,
        simulated_stall_us=certificate.simulated_stall_us,
        overrun_us=median(step.overrun_us for step in timed) if seen else None,
        misses=sum(step.misses for step in replayed),
        fallbacks=sum(step.fallback is not None for step in replayed),
        shortcuts=replay.shortcuts,
        memory_differences=tuple(
            str(step.memory_difference) for step in compared if step.memory_difference is not None
        ),
        memory_compared_steps=len(compared),
        warnings=warned,
        resident_growth_without_bytes=without.resident_growth_bytes,
        resident_growth_with_bytes=with_plan.resident_growth_bytes,
        host_pool_bytes=plan.host_pool_bytes,
        summary=replay.summary(),
        without_checkpointing=plan.without_checkpointing,
    )
