"""The proof of the plans of several courses: train twice from one seed, without and with them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from planner.plan.plan_set import PlanSet
from profiles.hooks.workload import Workload
from profiles.recording.device import device_of
from profiles.schema.course_set import shortened
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.profile import CPU
from profiles.schema.progress import Progress, silent
from runtime.host.host_memory import check_pools_fit
from runtime.proof.limited_device import Around, LimitedDevice, reached_storages
from runtime.proof.proof import limited_device
from runtime.proof.training import Training
from runtime.replay.load import device_fault
from runtime.replay.statistics import StepStatistics
from runtime.training.load_courses import LoadedCourses
from runtime.training.planned_training import PlannedTraining


@dataclass(frozen=True, kw_only=True)
class CourseSteps:
    """The steps of one course.

    Attributes:
        course: What its first module is handed.
        steps: How many there were.
        how: How they were run.
        fallbacks: How many fell back to resident.
    """

    course: str
    steps: int
    how: str
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class CoursesReport:
    """What two trainings showed; everything is measured.

    Attributes:
        losses: The losses without plans.
        losses_equal: Those with plans are the same, bit by bit.
        tensors_equal: So is all that is left at the end.
        tensors_compared: How much that is.
        budget_bytes: The largest of the plans' budgets.
        peak_without_bytes: Most device bytes without plans.
        peak_with_bytes: Most device bytes with them.
        out_of_memory_message: What the training without plans said, given the budget; empty if it
            fits.
        courses: The courses, in the order they were met or planned.
    """

    losses: tuple[float, ...]
    losses_equal: bool
    tensors_equal: bool
    tensors_compared: int
    budget_bytes: int
    peak_without_bytes: int
    peak_with_bytes: int
    out_of_memory_message: str
    courses: tuple[CourseSteps, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What the proof failed on, in a line each."""
        fallbacks = sum(course.fallbacks for course in self.courses)
        said = {
            "the losses differ": not self.losses_equal,
            "parameters, gradients, buffers or optimizer states differ": not self.tensors_equal,
            f"the peak was {self.peak_with_bytes} bytes, above the budget of {self.budget_bytes}": (
                self.peak_with_bytes > self.budget_bytes
            ),
            f"{fallbacks} steps fell back to resident": fallbacks > 0,
        }
        return tuple(text for text, holds in said.items() if holds)


def prove_courses(
    plans: PlanSet,
    *,
    build: Callable[[], Workload],
    steps: int,
    progress: Progress | None = None,
    device: LimitedDevice | None = None,
) -> CoursesReport:
    """Trains without the plans, then under their budget without them, then under it with them.

    Args:
        plans: A plan for each course.
        build: Builds the workload anew, from the same seed each time.
        steps: Steps of each training.
        progress: Called at every step.
        device: Where to train; the plans' device if None.

    Raises:
        PlanMismatchError: A plan was made for another model, or the training ran out of memory.
        SwapplanError: The host has no room for the host pool.
    """
    first = plans.courses[0].plan
    fault = device_fault(first)
    if fault is not None:
        raise PlanMismatchError(fault)
    check_pools_fit(plans.host_pool_bytes)
    if first.device.kind == CPU:
        torch.set_num_threads(first.device.compute_threads)
    trial = _Trial(plans, device or limited_device(first.device.kind), build, progress or silent)
    without = trial.train("without plans", steps, nullcontext)
    without.finish()
    message = trial.out_of_memory(steps)
    with_plans, courses = trial.with_plans(steps)
    with_plans.finish()
    return CoursesReport(
        losses=tuple(float(loss) for loss in without.losses),
        losses_equal=without.loss_bytes == with_plans.loss_bytes,
        tensors_equal=without.digests == with_plans.digests,
        tensors_compared=len(without.digests),
        budget_bytes=plans.budget_bytes,
        peak_without_bytes=without.peak_bytes,
        peak_with_bytes=with_plans.peak_bytes,
        out_of_memory_message=message,
        courses=courses,
    )


@dataclass(frozen=True)
class _Trial:
    """What the trainings of one proof have in common."""

    plans: PlanSet
    device: LimitedDevice
    build: Callable[[], Workload]
    progress: Progress

    def train(self, what: str, steps: int, around: Around) -> Training:
        """Trains anew."""
        training = Training(self.build(), self.device)
        self._steps(training, what, steps, around)
        return training

    def out_of_memory(self, steps: int) -> str:
        """Trains without plans under the budget; returns what went wrong, or nothing."""
        try:
            with self.device.limit(self.plans.budget_bytes):
                self.train("without plans, under the budget", steps, nullcontext)
        except torch.OutOfMemoryError as error:
            return " ".join(str(error).split())
        return ""

    def with_plans(self, steps: int) -> tuple[Training, tuple[CourseSteps, ...]]:
        """Trains with the plans under the budget."""
        try:
            # It is closed where no limit holds: that brings back all there is.
            with ExitStack() as attached, self.device.limit(self.plans.budget_bytes):
                training = Training(self.build(), self.device)
                workload = training.workload
                loaded = LoadedCourses(self.plans).attach(workload.model, workload.optimizer)
                memory = attached.enter_context(loaded)
                self._steps(
                    training,
                    "with the plans, under the budget",
                    steps,
                    lambda: _step_of(memory),
                    partial(_count_reached, memory, workload),
                )
                return training, tuple(_steps_of(memory))
        except torch.OutOfMemoryError as error:
            said = " ".join(str(error).split())
            raise PlanMismatchError(
                f"Under the plans the training ran out of memory. {said} {self.device.advice}"
            ) from error

    def _steps(
        self,
        training: Training,
        what: str,
        steps: int,
        around: Around,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        training.begin()
        for done in range(steps):
            self.progress(what, done, steps)
            before_step()
            training.step(around)
        self.progress(what, steps, steps)


@contextmanager
def _step_of(memory: PlannedTraining) -> Iterator[StepStatistics]:
    """A step of the training, with its own count of memory where the emulated device asks."""
    seen = StepStatistics(step=sum(memory.tally.values()))
    with memory.step():
        yield seen
    seen.peak_bytes = memory.last_peak_bytes


def _count_reached(memory: PlannedTraining, workload: Workload) -> None:
    reached = reached_storages(workload, device_of(workload.model))
    for course in memory.courses.values():
        if course.replay is not None:
            course.replay.count(reached)


def _steps_of(memory: PlannedTraining) -> Iterator[CourseSteps]:
    if not any(course.steps for course in memory.courses.values()):
        raise WorkloadError(
            "The steps call no module of the model that the plans are for, so none was replayed. "
            "Give the workload that was recorded."
        )
    for course in memory.courses.values():
        replay = course.replay
        yield CourseSteps(
            course=shortened(course.text),
            steps=course.steps,
            how=course.way.value,
            fallbacks=0 if replay is None else replay.fallbacks,
        )
