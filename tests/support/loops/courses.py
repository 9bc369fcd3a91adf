"""The courses of a training, recorded and planned together, at times of no machine."""

from collections.abc import Callable

from planner.plan.plan_set import CoursePlan, PlanSet
from planner.solving import solve
from profiles.recording.course_recorder import CourseRecorder
from profiles.schema.files import CREATED_BY
from profiles.schema.profile_set import ProfileSet
from tests.support.loops.loop import Trained
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK, UNNAMED, courses_with_fixed_times


def recorded_courses(it: Trained, step: Callable[[int], None], count: int) -> ProfileSet:
    """Runs steps, each handed its number, until so many courses are recorded."""
    tools = counting_tools()
    recorder = CourseRecorder(it.model, it.optimizer, most_courses=count, instruments=tools)
    number = 0
    while not recorder.is_done:
        with recorder.step():
            step(number)
        number += 1
    recorder.close()
    assert recorder.left_out() == ()
    return courses_with_fixed_times(recorder.profiles(link=FAST_LINK, source=UNNAMED))


def planned_courses(recorded: ProfileSet, share: float) -> PlanSet:
    """Plans them for a share of the largest peak."""
    courses = recorded.courses
    budget_bytes = int(share * max(entry.profile.peak_bytes for entry in courses))
    return PlanSet(
        format=PlanSet.FORMAT,
        version=PlanSet.VERSION,
        created_by=CREATED_BY,
        courses=tuple(
            CoursePlan(
                course=entry.course,
                plan=solve(entry.profile, budget_bytes=budget_bytes, time_limit_s=0.5),
            )
            for entry in courses
        ),
    )
