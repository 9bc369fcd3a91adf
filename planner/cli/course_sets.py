"""Files that hold several courses, as the commands take and show them."""

from pathlib import Path

from planner.cli.output import print_rows
from planner.plan.plan_set import CoursePlan, PlanSet
from profiles.library.index import profile_path
from profiles.schema.course_set import course_in, shortened
from profiles.schema.errors import FileError
from profiles.schema.files import FileRecord, format_of
from profiles.schema.profile_set import ProfileSet
from profiles.schema.units import size_text, time_text

PROFILES, PLANS = ".profiles.json.gz", ".plans.json"
"""How the names of such files end, unless others are given."""
COURSE_WIDTH = 32
"""Characters of a course that do not fold to have more columns beside it."""


def format_of_whole(file: Path) -> str:
    """Returns the magic word of a file; nothing if the path names one of its courses."""
    path = profile_path(file)
    if course_in(path)[1] is not None:
        return ""
    try:
        return format_of(path)
    except FileError:
        # What is wrong with it is said where it is read.
        return ""


def holds_courses(file: Path, kind: type[FileRecord]) -> bool:
    """Whether a file is a set of that kind, and the path names none of its courses."""
    return format_of_whole(file) == kind.FORMAT


def print_profile_set(profiles: ProfileSet) -> None:
    """Prints the courses that were recorded, a row each."""
    print_rows(
        "Courses, each recorded for itself; FILE#2 names the second",
        list(enumerate(profiles.courses, 1)),
        ("#", lambda row: row[0], str),
        ("its first module is handed", lambda row: shortened(row[1].course)),
        ("ops", lambda row: len(row[1].profile.ops), str),
        ("peak", lambda row: row[1].profile.peak_bytes, size_text),
        ("step", lambda row: row[1].profile.step_us, time_text),
        ("times", lambda row: row[1].profile.times.value),
        text_width=COURSE_WIDTH,
    )


def print_plan_set(plans: PlanSet) -> None:
    """Prints the plans of the courses, a row each."""
    print_rows(
        "Courses, each planned for itself; FILE#2 names the second",
        list(enumerate(plans.courses, 1)),
        ("#", lambda row: row[0], str),
        ("its first module is handed", lambda row: shortened(row[1].course)),
        ("budget", lambda row: row[1].plan.budget_bytes, size_text),
        ("swaps", lambda row: len(row[1].plan.swaps), str),
        ("rebuilt", lambda row: len(row[1].plan.rebuilds), str),
        ("step / bound", _step_text, str),
        text_width=COURSE_WIDTH,
    )
    print(
        f"They share a host pool of {size_text(plans.host_pool_bytes)}. Steps are simulated; no "
        "plan takes less than the bound."
    )


def _step_text(row: tuple[int, CoursePlan]) -> str:
    certificate = row[1].plan.certificate
    bound_us = certificate.compute_us + certificate.bound_beyond_us
    return f"{time_text(certificate.simulated_step_us)} / {time_text(bound_us)}"
