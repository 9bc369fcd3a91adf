"""Training with a plan against training without it, on the device at hand."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median

import torch

from planner.plan import Plan
from profiles.owned import owned_storages
from profiles.profile import Link
from profiles.workload import Workload
from runtime.replay import Replay
from runtime.statistics import StepStatistics
from tests.gpu.cases import Case
from tests.gpu.ground import Around, Ground, StepFigures
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


class _Training:
    """A workload in training, and what its steps showed.

    Attributes:
        losses: The bytes of each step's loss.
        figures: What each step took.
    """

    def __init__(self, workload: Workload) -> None:
        self.losses: list[bytes] = []
        self.figures: list[StepFigures] = []
        self._trained = workload

    def run(self, around: Around, ground: Ground, steps: int) -> None:
        """Runs some steps."""
        for _ in range(steps):
            last: list[torch.Tensor] = []
            self.figures.append(ground.measure(self._keeping_loss(last), around))
            # Read when the step is over: reading it inside would wait for the device.
            self.losses.append(_bytes_of(last.pop().untyped_storage()))

    def _keeping_loss(self, last: list[torch.Tensor]) -> Workload:
        def step() -> torch.Tensor:
            last.append(self._trained.step())
            return last[0]

        return replace(self._trained, step=step)

    def digests(self) -> tuple[tuple[str, str], ...]:
        """Digest of each parameter, buffer, gradient and optimizer state, by name."""
        return tuple(
            (owner.name, hashlib.sha256(_bytes_of(owner.storage)).hexdigest())
            for owner in owned_storages(self._trained.model, self._trained.optimizer)
        )

    def step_us(self, timed_steps: int) -> float:
        """Median of the last steps."""
        return median(figures.step_us for figures in self.figures[-timed_steps:])

    @property
    def peak_bytes(self) -> int:
        """Most bytes allocated."""
        return max(figures.peak_bytes for figures in self.figures)

    @property
    def reserved_bytes(self) -> int | None:
        """Most bytes the allocator held."""
        reserved = (figures.reserved_bytes for figures in self.figures)
        return max((size for size in reserved if size is not None), default=None)


@dataclass(frozen=True)
class _Finished:
    """A training that is over; nothing on the device is held any more."""

    losses: tuple[bytes, ...]
    digests: tuple[tuple[str, str], ...]
    peak_bytes: int
    reserved_bytes: int | None
    step_us: float


def check_training(case: Case, ground: Ground, link: Link, timed_steps: int) -> TrainingCheck:
    """Trains without a plan, plans for a share of the peak, and trains with the plan.

    Args:
        case: The workload and its budget.
        ground: The device.
        link: Its link.
        timed_steps: Steps whose time counts, after those that settle.
    """
    without = _train_without(case, ground, timed_steps)
    ground.tidy()
    again = _train_without(case, ground, timed_steps)
    ground.tidy()
    budget_bytes = int(without.peak_bytes * case.budget_share)
    task = Task(source=case.source(), budget_bytes=budget_bytes, link=link, timed_steps=timed_steps)
    plan = planned(task, ground)
    ground.tidy()
    out_of_memory = ""
    try:
        with ground.limit(budget_bytes):
            trained, steps = _train_with(plan, case, ground, timed_steps)
    except torch.OutOfMemoryError as error:
        out_of_memory = " ".join(str(error).split())
    if out_of_memory:
        ground.tidy()
        trained, steps = _train_with(plan, case, ground, timed_steps)
    repeats = (without.losses, without.digests) == (again.losses, again.digests)
    return _report(case, plan, without, trained, steps, repeats, out_of_memory)


def _train_without(case: Case, ground: Ground, timed_steps: int) -> _Finished:
    training = _Training(ground.build(case.source()))
    training.run(nullcontext, ground, STEPS_TO_SETTLE + timed_steps)
    return _finished(training, timed_steps)


def _train_with(
    plan: Plan, case: Case, ground: Ground, timed_steps: int
) -> tuple[_Finished, tuple[StepStatistics, ...]]:
    workload = ground.build(case.source())
    training = _Training(workload)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        training.run(replay.step, ground, STEPS_TO_SETTLE + timed_steps)
    # The replay is closed: everything is back on the device.
    return _finished(training, timed_steps), tuple(replay.steps)


def _finished(training: _Training, timed_steps: int) -> _Finished:
    return _Finished(
        losses=tuple(training.losses),
        digests=training.digests(),
        peak_bytes=training.peak_bytes,
        reserved_bytes=training.reserved_bytes,
        step_us=training.step_us(timed_steps),
    )


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    """A storage's bytes, wherever it is."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return bytes(flat.cpu().numpy())


def _report(
    case: Case,
    plan: Plan,
    without: _Finished,
    trained: _Finished,
    steps: tuple[StepStatistics, ...],
    repeats: bool,
    out_of_memory: str,
) -> TrainingCheck:
    about = plan.certificate
    return TrainingCheck(
        workload=case.title,
        steps=len(steps),
        repeats=repeats,
        losses_equal=without.losses == trained.losses,
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
        step_without_us=without.step_us,
        step_simulated_us=about.simulated_step_us,
        step_us=trained.step_us,
        stall_simulated_us=about.simulated_stall_us,
        d2h_bytes=steps[-1].d2h_bytes,
        host_pool_bytes=plan.host_pool_bytes,
    )
