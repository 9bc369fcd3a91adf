"""Records a training whose steps take several courses, each for itself.

A step's course is known when its first module is called (`profiles.hooks.course_finder`), and a
recorder of that course takes it from there. Steps that were expected to take another course are
passed over (`attempts`).
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.course_finder import CourseFinder
from profiles.hooks.several_optimizers import OneOrSeveral
from profiles.hooks.workload import CallersVariables, Training, bare_optimizer
from profiles.recording.attempts import Attempts, Verdict
from profiles.recording.device import Instruments
from profiles.recording.passes import Held
from profiles.recording.recorder import Recorder
from profiles.schema.course_set import shortened
from profiles.schema.errors import SwapplanError, WorkloadError
from profiles.schema.files import CREATED_BY
from profiles.schema.profile import Link, WorkloadSource
from profiles.schema.profile_set import CourseProfile, ProfileSet
from profiles.schema.progress import Progress, silent

QUIET_STEPS = 25
"""So many steps of known courses in a row, and no other is waited for."""
MOST_STEPS_EACH = 60
"""Steps for each course that is wanted; those that are not recorded by then are left out."""


@dataclass(eq=False)
class _Course:
    """A course that has been met, and what records it."""

    recorder: Recorder
    attempts: Attempts = field(default_factory=Attempts)
    why_left_out: str = ""

    @property
    def is_over(self) -> bool:
        return self.recorder.is_done or bool(self.why_left_out)


class CourseRecorder:
    """Records each course of a training: put `with recorder.step():` around each step of a loop.

    The steps are the loop's own, and no number of theirs changes.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: OneOrSeveral,
        *,
        most_courses: int,
        warmup_steps: int = 2,
        timed_steps: int = 3,
        progress: Progress | None = None,
        instruments: Instruments | None = None,
        checkpointing: bool = True,
    ) -> None:
        """Prepares to record so many courses; see `profiles.Recorder` for the other arguments."""
        # From the begin of a step on: what it calls first may be a checkpoint of a module.
        self._checkpointing = Checkpointing(kept=checkpointing)
        self._training = Training(model=model, optimizer=bare_optimizer(optimizer))
        self._most_courses = most_courses
        self._settings = (warmup_steps, timed_steps, instruments)
        self._progress = progress or silent
        self._courses: dict[str, _Course] = {}
        self._steps = self._quiet_steps = 0
        self._held: Held = tuple
        self._running: tuple[_Course, AbstractContextManager[None]] | None = None
        self._finder = CourseFinder(model, self._training.optimizer, self._on_course)
        self._hooks = AnchorHooks(model, self._training.optimizer)

    @property
    def is_done(self) -> bool:
        """Whether all wanted courses are recorded, or no more can be expected."""
        if self._steps >= MOST_STEPS_EACH * self._most_courses:
            return True
        are_over = all(course.is_over for course in self._courses.values())
        are_all = len(self._courses) == self._most_courses or self._quiet_steps >= QUIET_STEPS
        return are_over and are_all and bool(self._courses)

    def step(self) -> AbstractContextManager[None]:
        """Records the training step that is run inside."""
        return self.step_of(CallersVariables(sys._getframe(1)))

    @contextmanager
    def step_of(self, held: Held) -> Iterator[None]:
        """Records the step that is run inside, of which `held` returns what else it can reach."""
        done = sum(course.is_over for course in self._courses.values())
        self._progress(f"recording {self._most_courses} courses", done, self._most_courses)
        self._held, self._running = held, None
        self._steps += 1
        self._quiet_steps += 1
        self._finder.begin()
        try:
            with self._checkpointing:
                yield
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def profiles(self, *, link: Link, source: WorkloadSource) -> ProfileSet:
        """Returns what the steps of each course do.

        Args:
            link: The link to the host that plans are to be made for.
            source: How to build the steps again.

        Raises:
            WorkloadError: No course was recorded to its end.
        """
        recorded = {
            text: course.recorder.profile(link=link, source=source)
            for text, course in self._courses.items()
            if course.recorder.is_done
        }
        if not recorded:
            raise WorkloadError(self._why_none())
        return ProfileSet(
            format=ProfileSet.FORMAT,
            version=ProfileSet.VERSION,
            created_by=CREATED_BY,
            courses=tuple(CourseProfile(course=c, profile=p) for c, p in recorded.items()),
        )

    def left_out(self) -> tuple[str, ...]:
        """Says what is not there of what was wanted, and why, in a line each."""
        lines = [
            f"{shortened(text)} is left out: "
            f"{course.why_left_out or 'too few of the steps took this course'}"
            for text, course in self._courses.items()
            if not course.recorder.is_done
        ]
        met = len(self._courses)
        if met < self._most_courses:
            wanted = self._most_courses
            lines.append(f"of {wanted} courses that were asked for {self._steps} steps took {met}")
        return tuple(lines)

    def close(self) -> None:
        """Takes all hooks off the model."""
        self._finder.close()
        self._hooks.close()

    def _on_course(self, text: str) -> None:
        course = self._courses.get(text)
        if course is None:
            if len(self._courses) == self._most_courses:
                return
            self._quiet_steps = 0
            course = self._courses[text] = _Course(self._new_recorder())
        if not course.is_over:
            running = course.recorder.step_of(self._held)
            self._running = (course, running)
            running.__enter__()
        self._held = tuple

    def _leave(self, error: BaseException | None) -> None:
        self._finder.end(is_whole=error is None)
        running, self._running = self._running, None
        if running is None:
            return
        course, recording = running
        kind = None if error is None else type(error)
        try:
            recording.__exit__(kind, error, None if error is None else error.__traceback__)
        except SwapplanError as fault:
            if error is not None:
                raise
            self._pass_over(course, fault)
        else:
            course.attempts.succeeded()
            if course.recorder.is_done:
                self._finder.confirm()

    def _pass_over(self, course: _Course, fault: SwapplanError) -> None:
        verdict = course.attempts.failed(fault)
        if verdict is not Verdict.PASS_OVER:
            course.recorder = self._new_recorder()
        if verdict is Verdict.GIVE_UP:
            course.why_left_out = str(fault)

    def _new_recorder(self) -> Recorder:
        warmup_steps, timed_steps, instruments = self._settings
        return Recorder(
            self._training.model,
            self._training.optimizer,
            warmup_steps=warmup_steps,
            timed_steps=timed_steps,
            instruments=instruments,
            hooks=self._hooks,
            checkpointing=self._checkpointing.kept,
        )

    def _why_none(self) -> str:
        if self._courses:
            return f"No course was recorded: {self.left_out()[0]}"
        return (
            "The steps call no module of the model that they train, so their courses cannot be "
            "told apart. Hand in the model that the step calls, or record one course without "
            "--courses."
        )
