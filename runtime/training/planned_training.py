"""Keeps a training loop within a budget of device memory, from its first step on.

[Note: when a step begins] Which course a step takes is known when its first module is called, by
what that is handed. So nothing begins at the `with` statement: until the first call the code runs
between two steps, where whatever it touches is brought back first. Recording and replay both begin
at that call, and so see the same step. Only checkpointing, if recorded and planned steps are to run
without it, is switched off from the `with` statement until that call: what the code calls first may
be a checkpoint of that module.

[Note: who has what is away] Between two steps, one of the replays or what swaps on line may have
storages away. Before another one begins, it hands them over, one by one and within the budget.
"""

import logging
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.course_finder import Beginning, CourseFinder
from profiles.hooks.workload import CallersVariables, Training
from profiles.recording.device import device_of, instruments_for
from profiles.recording.recorder import Recorder
from profiles.schema.course_set import shortened
from profiles.schema.errors import SwapplanError
from profiles.schema.units import size_text
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.replay.replay import Replay
from runtime.replay.statistics import FallbackWarning
from runtime.training.budget import Budget
from runtime.training.course import Course, Way
from runtime.training.course_plans import CoursePlans
from runtime.training.fixed_plans import FixedPlans
from runtime.training.on_line import OnLine
from runtime.training.step import LoopStep, UnfinishedStep

LOG = logging.getLogger("swapplan")

MOST_WITHOUT_FORWARD = 3
"""Steps that call no module before a word is said of it."""


class PlannedTraining:
    """A training loop that is kept within a budget. Use it as a context manager, or call `close`.

    Attributes:
        plans: The courses of the loop, and their plans.
        tally: How many steps were run in each way.
        last_peak_bytes: Most device bytes in storages in the step before; None if that ran
            resident, or was not watched.
    """

    def __init__(
        self,
        training: Training,
        budget: Budget,
        plans: CoursePlans | FixedPlans,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        """Attaches the plans that are there.

        `checkpointing` is what becomes of the model's in recorded and planned steps; it is kept if
        None.

        Raises:
            SwapplanError: One of them must be attached, and is for another training.
        """
        self._checkpointing = checkpointing or Checkpointing(kept=True)
        self.plans = plans
        self.tally: dict[Way, int] = dict.fromkeys(Way, 0)
        self._training = training
        self._budget = budget
        self.last_peak_bytes: int | None = None
        self._step: LoopStep | None = None
        self._holder: Replay | None = None
        self._without_forward = 0
        self._finder = CourseFinder(training.model, training.optimizer, self._on_course)
        self._hooks = AnchorHooks(training.model, training.optimizer)
        tools = instruments_for(device_of(training.model))
        self._on_line = OnLine(training, budget.limit_bytes, tools, self._hooks)
        try:
            plans.attach_kept()
        except BaseException:
            self.close()
            raise

    @property
    def courses(self) -> dict[str, Course]:
        """The courses met or planned so far, by key."""
        return self.plans.courses

    def step(self) -> AbstractContextManager[None]:
        """Runs one training step inside: recorded, replayed, or kept within the budget otherwise.

        Raises:
            RuntimeError: It is closed, or another step is running.
        """
        return LoopStep(self._arm, self._leave, CallersVariables(sys._getframe(1)))

    def begin(self) -> None:
        """Begins a step where there is no `with` statement: in frameworks that call back.

        One that an exception has kept from being ended is ended first.
        """
        if self._step is not None:
            self._leave(self._step, UnfinishedStep())
        LoopStep(self._arm, self._leave, tuple).__enter__()

    def end(self) -> None:
        """Ends the step that has begun, if one has."""
        if self._step is not None:
            self._leave(self._step, None)

    def wait_for_plans(self) -> None:
        """Blocks until every plan that this process has made is there."""
        self.plans.wait(self._idle)

    def summary(self) -> str:
        """Says what happened so far: a line in all, and one for each course."""
        courses = self.courses.values()
        replays = [course.replay for course in courses if course.replay is not None]
        fallbacks = sum(replay.fallbacks for replay in replays)
        left = sum(replay.left_plan for replay in replays)
        short = sum(replay.shortcuts for replay in replays)
        counts = ", ".join(f"{n} {way.value}" for way, n in self.tally.items() if n)
        lines = [
            f"swapplan: {sum(self.tally.values())} steps within {self._budget.text}: "
            f"{counts or 'none yet'}; {fallbacks} fell back to resident"
            f"{f', {left} left their plan and were swapped on line' if left else ''}"
            f"{f', {short} skipped an update' if short else ''}."
        ]
        for course in courses:
            if course.steps:
                why = f" ({course.why})" if course.why else ""
                name, way = shortened(course.text), course.way.value
                lines.append(f"  {name}: {course.steps} steps, now {way}{why}")
        return "\n".join(lines)

    def close(self) -> None:
        """Brings everything back, removes all hooks and ends what plans; it may be called again."""
        if self._finder.is_closed:
            return
        self._step = None
        self._checkpointing.leave()
        self.plans.close()
        self._on_line.close()
        self._hooks.close()
        self._finder.close()
        LOG.info("%s", self.summary())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arm(self, step: LoopStep) -> None:
        if self._finder.is_closed:
            raise RuntimeError("This training is closed, so it has no more steps.")
        if self._step is not None:
            raise RuntimeError("A step is already running; steps cannot be nested.")
        self.plans.look_for_plans(self._idle)
        self._step = step
        self._finder.begin()
        self._checkpointing.__enter__()

    def _on_course(self, text: str) -> None:
        """See [Note: when a step begins]."""
        step = self._step
        if step is None:
            return
        course = self.plans.of(text, self._beginning.text)
        step.course, step.way = course, course.way
        step.running = self._running(course, step)
        # See [Note: frames of callers] in `profiles.hooks.workload`.
        step.held = tuple
        step.running.__enter__()
        # From here on what runs the step sees to it.
        self._checkpointing.leave()

    @property
    def _beginning(self) -> Beginning:
        beginning = self._finder.beginning
        assert beginning is not None, "a step with a course has begun"
        return beginning

    def _running(self, course: Course, step: LoopStep) -> AbstractContextManager[object]:
        """Returns what runs a step of a course, with everything where that wants it."""
        if course.replay is not None:
            self._hand_to(course.replay)
            return course.replay.step()
        self._hand_to(None)
        limited = self._on_line.limited
        if course.way is Way.RECORDED:
            recorder = course.recorder = course.recorder or self._new_recorder()
            recording = recorder.step_of(step.held)
            is_limited = isinstance(recorder, LimitedRecorder)
            return self._on_line.around(recording) if is_limited else recording
        fits = course.way is Way.RESIDENT and course.surely_fits(self._beginning)
        if fits or self._budget.limit_bytes is None:
            step.is_free = True
            self._on_line.bring_back()
            return nullcontext()
        return self._on_line.around(limited.step())

    def _new_recorder(self) -> Recorder | LimitedRecorder:
        training = self._training
        tools = instruments_for(device_of(training.model))
        if self._budget.limit_bytes is None:
            return Recorder(
                *(training.model, training.optimizer),
                instruments=tools,
                hooks=self._hooks,
                checkpointing=self._checkpointing.kept,
            )
        return LimitedRecorder(
            *(training, self._on_line.limited, tools),
            checkpointing=self._checkpointing.kept,
        )

    def _idle(self) -> None:
        self._hand_to(None)

    def _hand_to(self, replay: Replay | None) -> None:
        """See [Note: who has what is away]; what an interrupt ends goes on the next time."""
        swap = self._on_line.limited.swap
        if self._holder is replay and (replay is None or not swap.moving()):
            return
        self._on_line.release()
        try:
            if self._holder is not None and self._holder is not replay:
                self._holder.hand_over(swap)
            self._holder = replay
            if replay is not None and swap.moving():
                replay.take_over(swap)
        finally:
            self._on_line.guard()

    def _leave(self, step: LoopStep, error: BaseException | None) -> None:
        self._step = None
        self._finder.end(is_whole=error is None)
        self._checkpointing.leave()
        course, running = step.course, step.running
        if course is None or running is None:
            self._count_without_forward()
            return
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        course.steps += 1
        self.tally[step.way] += 1
        try:
            running.__exit__(kind, error, trace)
        except SwapplanError as fault:
            if error is not None or step.way is not Way.RECORDED:
                raise
            self.plans.pass_over(course, fault)
            return
        course.attempts.succeeded()
        self.last_peak_bytes = self._peak_bytes_of(course, step)
        if error is None:
            self._note(course, step)

    def _note(self, course: Course, step: LoopStep) -> None:
        """Notes what a step that was brought to its end says of its course."""
        if step.way is Way.RECORDED:
            if course.recorder is not None and course.recorder.is_done:
                self._finder.confirm()
                self.plans.end_recording(course, course.recorder)
                if course.way is Way.RESIDENT:
                    course.fitting.add(self._finder.signature)
        elif step.way is Way.REPLAYED:
            if course.replay is not None and course.replay.steps[-1].followed_plan:
                self._finder.confirm()
        elif step.way is Way.RESIDENT:
            self._note_fit(course, step)
        else:
            self._warn_if_over(course)

    def _note_fit(self, course: Course, step: LoopStep) -> None:
        """Notes whether a step whose course has been found to fit did."""
        signature, limited = self._finder.signature, self._on_line.limited
        if signature in course.fitting or self._budget.limit_bytes is None:
            return
        if limited.was_never_exceeded if step.is_free else limited.swap.would_fit:
            course.fitting.add(signature)
            self._finder.confirm()
        elif step.is_free:
            warnings.warn(
                f"A step of {shortened(course.text)} went on unlike those that fit in "
                f"{self._budget.text}, and ran resident, beyond it perhaps. Steps like it are "
                "swapped on line from now on, until one has been seen to fit.",
                FallbackWarning,
                stacklevel=2,
            )
        else:
            self._warn_if_over(course)

    def _peak_bytes_of(self, course: Course, step: LoopStep) -> int | None:
        if step.way is Way.REPLAYED and course.replay is not None:
            return course.replay.steps[-1].peak_bytes
        is_on_line = not step.is_free and self._budget.limit_bytes is not None
        return self._on_line.limited.peak_bytes if is_on_line else None

    def _count_without_forward(self) -> None:
        self._without_forward += 1
        if self._without_forward == MOST_WITHOUT_FORWARD and not self.courses:
            LOG.warning(
                "%d steps called no module of the model that is kept within a budget, so nothing "
                "is recorded. Hand in the model that the step calls; of a compiled one, what "
                "torch.compile returned.",
                self._without_forward,
            )

    def _warn_if_over(self, course: Course) -> None:
        swap = self._on_line.limited.swap
        if self._budget.limit_bytes is not None and swap.fell_short:
            need = swap.largest_need
            warnings.warn(
                f"A step of {shortened(course.text)} took more than {self._budget.text}: "
                f"{need.name} needs {size_text(need.size_bytes)} at once. Give it a larger budget, "
                "or a smaller batch.",
                FallbackWarning,
                stacklevel=2,
            )
