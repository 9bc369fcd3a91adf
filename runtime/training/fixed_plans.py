"""The plans of a file, one for each course; what takes another course has none."""

import logging
from collections.abc import Callable

from planner.plan.plan_set import PlanSet
from profiles.hooks.course_key import key_of
from profiles.hooks.workload import Training
from profiles.recording.recorder import Recorder
from profiles.schema.course_set import shortened
from profiles.schema.errors import SwapplanError
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.training.course import Course, Way
from runtime.training.course_replays import CourseReplays

LOG = logging.getLogger("swapplan")

NO_PLAN = "the file has no plan for it"


class FixedPlans:
    """The courses that a file has plans for, and those met without one.

    Attributes:
        courses: All of them, by key.
    """

    def __init__(self, training: Training, plans: PlanSet) -> None:
        """Attaches nothing yet."""
        self.courses: dict[str, Course] = {}
        self._plans = plans
        self._replays = CourseReplays(training)

    def attach_kept(self) -> None:
        """Attaches every plan.

        Raises:
            SwapplanError: One is not for this training.
        """
        for entry in self._plans.courses:
            course = self._new_course(entry.course)
            self._replays.attach(course, entry.plan, idle=lambda: None)

    def of(self, text: str, beginning: str) -> Course:
        """Returns the course of a step by its text."""
        course = self.courses.get(key_of(text))
        if course is None:
            course = self._new_course(text)
            course.way, course.why = Way.UNPLANNED, NO_PLAN
            LOG.warning(
                "%s is swapped on line: %s. Record it with 'plan profile --courses'.",
                shortened(text),
                NO_PLAN,
            )
        return course

    def end_recording(self, course: Course, recorder: Recorder | LimitedRecorder) -> None:
        """None is recorded."""

    def pass_over(self, course: Course, fault: SwapplanError) -> None:
        """None is recorded."""

    def look_for_plans(self, idle: Callable[[], None]) -> None:
        """There will be no others."""

    def wait(self, idle: Callable[[], None]) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """Ends all replays."""
        self._replays.close()

    def _new_course(self, text: str) -> Course:
        course = self.courses[key_of(text)] = Course(key_of(text), text)
        return course
