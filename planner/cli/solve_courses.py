"""`plan solve` for a file of several courses: one budget, a plan for each."""

from dataclasses import replace
from pathlib import Path

import typer

from planner.cli.course_sets import PLANS, print_plan_set
from planner.cli.output import print_line, wrote
from planner.cli.output_file import beside, check_output
from planner.cli.request import PlanRequest
from planner.ilp.deadline import SolverName
from planner.plan.plan import Plan
from planner.plan.plan_set import CoursePlan, PlanSet, write_plan_set
from profiles.schema.course_set import shortened
from profiles.schema.files import CREATED_BY
from profiles.schema.profile import Profile
from profiles.schema.profile_set import CourseProfile, read_profile_set


def solve_courses(
    file: Path,
    request: PlanRequest,
    output: Path | None,
    solver: SolverName,
    time_limit_s: float,
) -> None:
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
            CoursePlan(
                course=entry.course,
                plan=_planned(number, entry, request, solver, time_limit_s),
            )
            for number, entry in enumerate(recorded.courses, 1)
        ),
    )
    write_plan_set(plans, path)
    print_plan_set(plans)
    wrote(path)


def _planned(
    number: int,
    entry: CourseProfile,
    request: PlanRequest,
    solver: SolverName,
    time_limit_s: float,
) -> Plan:
    from planner.cli.solve import solved
    from planner.cli.wall_report import print_wall
    from planner.smallest_budget import UnmetBudgetError

    print_line(f"course {number}, {shortened(entry.course)} ...", error=True)
    profile: Profile = entry.profile
    (workers,) = request.workers_of(profile)
    try:
        return solved(profile, request, workers, solver, time_limit_s)
    except UnmetBudgetError as error:
        print_wall(error)
        raise typer.Exit(error.exit_code) from error
