"""`plan solve` for a file of several courses: one budget, a plan for each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from planner.cli.course_sets import PLANS, print_plan_set
from planner.cli.output import print_line, wrote
from planner.cli.output_file import beside, check_output
from planner.cli.request import PlanRequest, Workers
from planner.plan.plan import Plan
from planner.plan.plan_set import CoursePlan, PlanSet, write_plan_set
from profiles.schema.course_set import shortened
from profiles.schema.files import CREATED_BY
from profiles.schema.profile import Profile
from profiles.schema.profile_set import CourseProfile, read_profile_set

Planner = Callable[[Profile, PlanRequest, Workers], Plan]
"""Plans one profile as the options ask."""


def solve_courses(file: Path, request: PlanRequest, output: Path | None, planned: Planner) -> None:
    """Plans every course of a file for one budget: a share is one of the largest course's peak."""
    recorded = read_profile_set(file)
    path = check_output(output or beside(file, PLANS), PlanSet, keep=file)
    largest = max((entry.profile for entry in recorded.courses), key=lambda one: one.peak_bytes)
    request = replace(request, budget=str(request.budget_bytes(largest)))
    plans = PlanSet(
        format=PlanSet.FORMAT,
        version=PlanSet.VERSION,
        created_by=CREATED_BY,
        courses=tuple(
            CoursePlan(course=entry.course, plan=_plan_of(number, entry, request, planned))
            for number, entry in enumerate(recorded.courses, 1)
        ),
    )
    write_plan_set(plans, path)
    print_plan_set(plans)
    wrote(path)


def _plan_of(number: int, entry: CourseProfile, request: PlanRequest, planned: Planner) -> Plan:
    print_line(f"course {number}, {shortened(entry.course)} ...", error=True)
    (workers,) = request.workers_of(entry.profile)
    return planned(entry.profile, request, workers)
