"""The courses of a loop and their plans: which there are, who makes them, and their attachment."""

import logging
from collections.abc import Callable

from planner.plan.plan import Plan
from profiles.hooks.course_key import key_of
from profiles.hooks.workload import Training
from profiles.recording.attempts import Verdict
from profiles.recording.recorder import Recorder
from profiles.schema.course_set import shortened
from profiles.schema.errors import SwapplanError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.training.agreement import Agreement, Word, agreement_of
from runtime.training.budget import Budget
from runtime.training.course import Course, Way
from runtime.training.course_replays import CourseReplays
from runtime.training.plan_folder import PlanFolder
from runtime.training.planning import Planning

LOG = logging.getLogger("swapplan")

OF_WORKERS = "the step of all workers"
"""The course of a loop that data-parallel workers run; see `runtime.training.agreement`."""


class CoursePlans:
    """The courses of a loop, and their plans.

    Attributes:
        courses: Those met or planned so far, by key.
    """

    def __init__(
        self,
        training: Training,
        budget: Budget,
        folder: PlanFolder,
        link: Link,
        *,
        time_limit_s: float,
        most_plans: int,
    ) -> None:
        """Knows no course yet; see `runtime.within` for the arguments."""
        self.courses: dict[str, Course] = {}
        self._training, self._budget, self._folder, self._link = training, budget, folder, link
        self._time_limit_s, self._most_plans = time_limit_s, most_plans
        self._replays = CourseReplays(training)
        self._workers = agreement_of(training)
        self._have_agreed = self._workers is None

    def attach_kept(self) -> None:
        """Attaches the plans that the folder has from earlier runs; nothing may be away."""
        if self._workers is None:
            for key in self._folder.planned()[: self._most_plans]:
                self._attach(self._new_course(key, ""), self._folder.plan(key))
            return
        course = self._new_course(key_of(OF_WORKERS), OF_WORKERS)
        if self._workers.is_first and self._folder.plan(course.key) is not None:
            course.way = Way.REPLAYED

    def of(self, text: str, beginning: str) -> Course:
        """Returns the course of a step by its text.

        Where that is left without a plan, but another one that begins alike has one, it is the
        other's: the step follows that as far as it goes, and is swapped on line from there.
        """
        if self._workers is not None:
            text = beginning = OF_WORKERS
        course, other = self._of(text), self.courses.get(key_of(beginning))
        if course.way is Way.UNPLANNED and other is not None and other.replay is not None:
            return other
        return course

    def _of(self, text: str) -> Course:
        course = self.courses.get(key_of(text))
        if course is None:
            course = self._new_course(key_of(text), text)
            profile = self._folder.profile(course.key)
            if profile is not None:
                self._decide(course, profile)
        course.text = text
        return course

    def end_recording(self, course: Course, recorder: Recorder | LimitedRecorder) -> None:
        """Keeps what was recorded; what cannot be had is no reason to end a training."""
        course.recorder = None
        try:
            profile = recorder.profile(link=self._link)
            self._folder.keep_profile(course.key, profile)
        except SwapplanError as fault:
            self.leave_unplanned(course, str(fault))
        else:
            self._decide(course, profile)

    def pass_over(self, course: Course, fault: SwapplanError) -> None:
        """Passes over a step that cannot be recorded; see `profiles.recording.attempts`."""
        verdict = course.attempts.failed(fault)
        if verdict is not Verdict.PASS_OVER:
            course.recorder = None
        if verdict is Verdict.GIVE_UP:
            self.leave_unplanned(course, str(fault))

    def look_for_plans(self, idle: Callable[[], None]) -> None:
        """Attaches plans that have come, between two steps.

        For data-parallel workers it is a collective until all have heard of the plan. `idle` has
        everything taken out of the host pool, if that has to grow.
        """
        for course in self._under_way():
            planning = course.planning
            if planning is None or not planning.is_over:
                continue
            fault = planning.fault()
            planning.close()
            course.planning = None
            if fault is not None:
                self.leave_unplanned(course, fault)
            elif self._workers is None:
                self._attach(course, self._folder.plan(course.key), idle)
            else:
                # Together with the others, in the word that follows.
                course.way = Way.REPLAYED
        self._plan_next()
        if self._workers is not None and not self._have_agreed:
            self._agree(self._workers, idle)

    def wait(self, idle: Callable[[], None]) -> None:
        """Blocks until every plan that this process has made is there."""
        while planned := [c.planning for c in self._under_way() if c.planning is not None]:
            planned[0].wait()
            if self._workers is not None:
                return
            self.look_for_plans(idle)

    def leave_unplanned(self, course: Course, why: str) -> None:
        """Leaves a course without a plan, with a word."""
        course.way, course.why = Way.UNPLANNED, why
        how = "resident" if self._budget.limit_bytes is None else "swapped on line"
        LOG.warning("%s runs without a plan, %s: %s", shortened(course.text), how, why)

    def close(self) -> None:
        """Ends what plans, and all replays."""
        self._replays.close()
        for course in self.courses.values():
            if course.planning is not None:
                course.planning.close()

    def _new_course(self, key: str, text: str) -> Course:
        course = self.courses[key] = Course(key, text)
        return course

    def _decide(self, course: Course, profile: Profile) -> None:
        """Has a recorded course planned, unless it fits."""
        peak_bytes = max(slot.resident_bytes for slot in slot_memory(profile))
        if peak_bytes <= self._budget.bytes_of(peak_bytes):
            course.way = Way.RESIDENT
            return
        planned = sum(c.way in (Way.REPLAYED, Way.PLANNED_FOR) for c in self.courses.values())
        if planned >= self._most_plans:
            self.leave_unplanned(course, f"{self._most_plans} courses have plans already")
            return
        course.way = Way.PLANNED_FOR
        self._plan_next()

    def _under_way(self) -> list[Course]:
        return [c for c in self.courses.values() if c.way is Way.PLANNED_FOR]

    def _plan_next(self) -> None:
        """Starts a process for the first course that waits for one, if none runs."""
        waiting = self._under_way()
        is_another_ones = self._workers is not None and not self._workers.is_first
        if not waiting or is_another_ones or any(course.planning for course in waiting):
            return
        first, folder = waiting[0], self._folder
        profile, plan = folder.profile_path(first.key), folder.plan_path(first.key)
        try:
            first.planning = Planning(profile, self._budget.to_plan, plan, self._time_limit_s)
        except OSError as error:
            self.leave_unplanned(first, f"the planner could not be started: {error}")

    def _agree(self, workers: Agreement, idle: Callable[[], None]) -> None:
        """See [Note: one course for all] in `runtime.training.agreement`."""
        (course,) = self.courses.values()
        said = None
        if workers.is_first and course.way not in (Way.RECORDED, Way.PLANNED_FOR):
            plan = self._folder.plan(course.key) if course.way is Way.REPLAYED else None
            said = Word(course.way, course.why if plan is None else plan.model_dump_json())
        heard = workers.hear(said)
        if heard is None:
            return
        self._have_agreed = True
        course.recorder = None
        if heard.way is Way.REPLAYED:
            self._attach(course, Plan.model_validate_json(heard.text), idle)
        else:
            course.way, course.why = heard

    def _attach(
        self, course: Course, plan: Plan | None, idle: Callable[[], None] = lambda: None
    ) -> None:
        """Attaches a course's plan; without one that is for this training it is recorded."""
        course.way = Way.RECORDED
        limit_bytes = self._budget.limit_bytes
        if plan is None or (limit_bytes is not None and plan.budget_bytes > limit_bytes):
            return
        try:
            self._replays.attach(course, plan, idle)
        except SwapplanError as error:
            if self._workers is not None:
                self.leave_unplanned(course, str(error))
            else:
                LOG.warning("A plan is passed over and made again: %s", error)
