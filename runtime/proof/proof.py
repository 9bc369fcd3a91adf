"""The proof of a plan: train twice from one seed, without and with it, and compare every bit."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from statistics import median

import torch

from planner.plan.plan import Plan
from profiles.hooks.dispatch import storages_of
from profiles.hooks.named_storages import owned_storages
from profiles.hooks.reached import reached_tensors
from profiles.hooks.workload import Workload
from profiles.recording.recorded_profile import device_of
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.progress import Progress
from runtime.host.host_memory import check_pools_fit
from runtime.proof.device_proof import STEPS_TO_FILL, Attach, Tell, prove_on_device
from runtime.proof.limited_device import LimitedGpu
from runtime.proof.report import ProofReport
from runtime.proof.training import Surroundings, Training
from runtime.replay.load import LoadedPlan, device_fault, first_fault
from runtime.replay.replay import FallbackWarning, Replay
from runtime.storage.accountant import Accountant


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
) -> ProofReport:
    """Trains without the plan, then under its budget without it, then with it.

    The first `steps - timed_steps` steps are watched (every op seen, memory counted, the budget
    enforced); the others run without that, for their time. On a GPU, where the device counts and
    enforces by itself, see `runtime.proof.device_proof`.

    Args:
        plan: The plan.
        build: Builds the workload anew, from the same seed each time.
        steps: Steps of each training.
        timed_steps: How many of them are timed; fewer than `steps`.
        progress: Told of every step.
        build_alone: As `build`, for the training that runs out of memory: one worker of many may
            do so where the others do not, so its steps must not wait for theirs.
        threads: Threads that ops run on; those of the plan's device if None.
        attach: Attaches the plan to what is trained with it.

    Returns:
        The report.

    Raises:
        WorkloadError: There is no step to watch or none to time.
        PlanMismatchError: The plan was made for another model.
        SwapplanError: The host has no room for the plan's host pool.
    """
    if not 0 < timed_steps < steps:
        raise WorkloadError(
            f"{steps} steps with {timed_steps} timed leave none to watch or none to time. Ask for "
            "at least 2 steps."
        )
    fault = device_fault(plan)
    if fault is not None:
        raise PlanMismatchError(fault)
    check_pools_fit(plan.host_pool_bytes)
    tell = partial(_tell, progress)
    if plan.device.kind == "cuda":
        return prove_on_device(
            plan,
            LimitedGpu(torch.device("cuda", torch.cuda.current_device())),
            build=build,
            build_alone=build_alone or build,
            attach=attach,
            steps=steps,
            timed_steps=timed_steps,
            tell=tell,
        )
    torch.set_num_threads(threads or plan.device.compute_threads)
    watched_steps = steps - timed_steps
    without = Training(build, partial(_without_plan, plan))
    fault = first_fault(plan, without.workload.model, without.workload.optimizer)
    if fault is not None:
        raise PlanMismatchError(fault)
    without.watched_steps(watched_steps, lambda k: tell("without the plan", k, watched_steps))
    message = _run_out_of_memory(plan, build_alone or build, tell)
    with_plan, replay, told = _train_in_turns(
        plan, build, attach, without, watched_steps, timed_steps, tell
    )
    return _report(plan, without, message, with_plan, replay, told)


def _train_in_turns(
    plan: Plan,
    build: Callable[[], Workload],
    attach: Attach,
    without: Training,
    watched_steps: int,
    timed_steps: int,
    tell: Tell,
) -> tuple[Training, Replay, tuple[str, ...]]:
    """Trains with the plan, then times both in turns: a machine that slows down slows both.

    Copies that are under way when a step with the plan ends go on during the step without it, so
    a wait at the begin of a step is measured shorter than it is in training.
    """
    with warnings.catch_warnings(record=True) as caught, ExitStack() as replays:
        warnings.simplefilter("always", FallbackWarning)
        with_plan, replay = _attached(plan, build, attach, replays)
        try:
            with_plan.watched_steps(
                watched_steps, lambda k: tell("with the plan", k, watched_steps)
            )
        except torch.OutOfMemoryError as error:
            raise PlanMismatchError(_out_of_memory_text(replay, error)) from error
        for done in range(timed_steps):
            tell("timing both in turns", done, timed_steps)
            with replay.unguarded():
                without.timed_step()
            with_plan.timed_step()
        tell("timing both in turns", timed_steps, timed_steps)
    told = tuple(str(w.message) for w in caught if issubclass(w.category, FallbackWarning))
    return with_plan, replay, told


def _out_of_memory_text(replay: Replay, error: torch.OutOfMemoryError) -> str:
    text = f"Under the plan the training ran out of memory. {error}"
    difference = replay.steps[-1].memory_difference if replay.steps else None
    if difference is None:
        return f"{text} Solve again with a smaller budget than the device has."
    return (
        f"{text} In {difference}. Let go of it before that anchor, or record the training as it is "
        "now with 'plan profile'."
    )


def _reached(workload: Workload) -> Iterator[torch.UntypedStorage]:
    """What the step can reach is on the device, whether an op has touched it or not."""
    return storages_of(reached_tensors(workload), device_of(workload.model))


def _without_plan(plan: Plan, workload: Workload) -> Surroundings:
    """Trains as anyone would: no hooks, no plan, memory only counted."""
    accountant = Accountant(torch.device(plan.device.kind), budget_bytes=None)
    accountant.count(_reached(workload))
    return Surroundings(
        watched=lambda: _watch(accountant, workload),
        timed=nullcontext,
        peak_bytes=lambda: accountant.peak_bytes,
    )


def _attached(
    plan: Plan, build: Callable[[], Workload], attach: Attach, replays: ExitStack
) -> tuple[Training, Replay]:
    """Builds the workload with the plan attached, until the stack is left."""
    attached: list[Replay] = []

    def around(workload: Workload) -> Surroundings:
        replay = attach(plan, workload)
        replay.count(_reached(workload))
        attached.append(replays.enter_context(replay))
        return Surroundings(
            watched=replay.step,
            timed=replay.unwatched_step,
            peak_bytes=lambda: replay.steps[-1].peak_bytes or 0,
        )

    return Training(build, around), attached[0]


def _run_out_of_memory(plan: Plan, build: Callable[[], Workload], tell: Tell) -> str:
    """Trains without the plan under its budget; returns what went wrong, or nothing."""
    workload = build().held()
    accountant = Accountant(torch.device(plan.device.kind), plan.budget_bytes)
    accountant.count(_reached(workload))
    for done in range(STEPS_TO_FILL):
        tell("without the plan, under its budget", done, STEPS_TO_FILL)
        try:
            with _watch(accountant, workload):
                workload.step()
        except torch.OutOfMemoryError as error:
            return str(error)
    return ""


def _watch(accountant: Accountant, workload: Workload) -> AbstractContextManager[None]:
    accountant.count_owned(owned_storages(workload.model, workload.optimizer))
    return accountant.watch()


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)


def _report(
    plan: Plan,
    without: Training,
    message: str,
    with_plan: Training,
    replay: Replay,
    told: tuple[str, ...],
) -> ProofReport:
    replayed, summary = tuple(replay.steps), replay.summary()
    timed = replayed[-len(with_plan.timed_us) :]
    compared = [step for step in replayed if step.compares_memory]
    certificate, digests = plan.certificate, without.digests()
    return ProofReport(
        losses=tuple(float(loss) for loss in without.losses),
        repeats=True,
        losses_equal=without.same_losses(with_plan),
        tensors_equal=digests == with_plan.digests(),
        tensors_compared=len(digests),
        budget_bytes=plan.budget_bytes,
        peak_without_bytes=without.peak_bytes,
        peak_with_bytes=with_plan.peak_bytes,
        peak_planned_bytes=certificate.peak_bytes,
        out_of_memory_without_plan=bool(message),
        out_of_memory_message=message,
        step_without_us=tuple(without.timed_us),
        step_with_us=tuple(with_plan.timed_us),
        profiled_step_us=certificate.compute_us,
        simulated_step_us=certificate.simulated_step_us,
        d2h_bytes=timed[-1].d2h_bytes,
        h2d_bytes=timed[-1].h2d_bytes,
        stall_us=median(step.stall_us for step in timed),
        simulated_stall_us=certificate.simulated_stall_us,
        overrun_us=median(step.overrun_us for step in timed),
        misses=sum(step.misses for step in replayed),
        fallbacks=sum(step.fallback is not None for step in replayed),
        memory_differences=tuple(
            str(step.memory_difference) for step in compared if step.memory_difference is not None
        ),
        memory_compared_steps=len(compared),
        warnings=told,
        resident_growth_without_bytes=without.resident_growth_bytes,
        resident_growth_with_bytes=with_plan.resident_growth_bytes,
        host_pool_bytes=plan.host_pool_bytes,
        summary=summary,
    )
