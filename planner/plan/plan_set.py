"""The plans of a training's courses, in one file."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from planner.plan.plan import Plan
from planner.plan.verify import first_fault
from profiles.schema.course_set import MOST_COURSES, CourseText, courses_fault
from profiles.schema.files import FileRecord, Record, read_file, write_file


class CoursePlan(Record):
    """The plan of one course of a training."""

    course: CourseText
    plan: Plan


class PlanSet(FileRecord):
    """The plans of one training's courses; each keeps to its own budget."""

    FORMAT: ClassVar[str] = "swapplan-plans"
    VERSION: ClassVar[int] = 1
    REMAKE: ClassVar[str] = "plan solve"

    courses: tuple[CoursePlan, ...] = Field(min_length=1, max_length=MOST_COURSES)

    @property
    def budget_bytes(self) -> int:
        """Device bytes that no course takes more than."""
        return max(entry.plan.budget_bytes for entry in self.courses)

    @property
    def host_pool_bytes(self) -> int:
        """Bytes of the host pool that they share: one course runs at a time."""
        return max(entry.plan.host_pool_bytes for entry in self.courses)


def read_plan_set(path: Path | str) -> PlanSet:
    """Reads a file of plans and verifies each.

    Raises:
        FileError: The file is missing, damaged, foreign, of another version, or the swaps of a plan
            break an invariant.
    """
    return read_file(PlanSet, Path(path), first_fault=_set_fault)


def read_unverified_plan_set(path: Path | str) -> PlanSet:
    """Reads plans as their file has them, whatever their figures say.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    return read_file(PlanSet, Path(path), first_fault=_header_fault)


def write_plan_set(plans: PlanSet, path: Path | str) -> None:
    """Writes a file of plans, atomically.

    Raises:
        FileError: The path cannot be written.
    """
    write_file(plans, Path(path))


def _header_fault(plans: PlanSet) -> str | None:
    return courses_fault([(one.course, one.plan) for one in plans.courses], lambda plan: None)


def _set_fault(plans: PlanSet) -> str | None:
    return courses_fault([(one.course, one.plan) for one in plans.courses], first_fault)
