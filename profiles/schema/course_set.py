"""Several courses of one training in one file: how one of them is named.

A training whose batches vary takes several courses, each of which is recorded and planned for
itself. Wherever one profile or plan is read, a number behind the path names one: `x.plans.json#2`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import Field

from profiles.schema.errors import FileError

MARK = "#"
MOST_COURSES = 64
MOST_WORDS = 6
"""Of a course's tensors that are named to a user."""

CourseText = Annotated[str, Field(min_length=1)]
"""What the first module of a step is handed, as `profiles.hooks.course_key` words it."""

Entry = TypeVar("Entry")


def course_in(path: Path) -> tuple[Path, int | None]:
    """Returns the file and the number of the course that a path names; None if it names none."""
    name, mark, number = path.name.rpartition(MARK)
    if not (mark and name and number.isdecimal() and len(number) < 5) or os.path.exists(path):
        return path, None
    return path.with_name(name), int(number)


def chosen(entries: Sequence[Entry], number: int, file: Path) -> Entry:
    """Returns the entry of a set that has a number; the first is 1.

    Raises:
        FileError: There is none.
    """
    if 1 <= number <= len(entries):
        return entries[number - 1]
    raise FileError(
        f"{file}{MARK}{number}: the file holds courses 1 to {len(entries)}. 'plan show {file}' "
        "lists them."
    )


class OfModel(Protocol):
    """A profile or a plan, as far as a set knows it."""

    @property
    def model_fingerprint(self) -> str:
        """Digest of the model and optimizer it is of."""

    def header_fault(self) -> str | None:
        """Says what is wrong with its head; None if nothing is."""


Of = TypeVar("Of", bound=OfModel)


def courses_fault(
    entries: Sequence[tuple[str, Of]], fault_of: Callable[[Of], str | None]
) -> str | None:
    """Says what is wrong first with the courses of a set; None if nothing is.

    Args:
        entries: Each course, and what is of it.
        fault_of: Says what is wrong with that by itself.
    """
    for number, (_, one) in enumerate(entries, 1):
        fault = one.header_fault()
        if fault is not None:
            return f"course {number}: {fault}"
    courses = [course for course, _ in entries]
    for number, (course, one) in enumerate(entries, 1):
        if course in courses[: number - 1]:
            return f"course {number} is there twice"
        if one.model_fingerprint != entries[0][1].model_fingerprint:
            return f"course {number} is of another model than course 1"
    for number, (_, one) in enumerate(entries, 1):
        fault = fault_of(one)
        if fault is not None:
            return f"course {number}: {fault}"
    return None


def shortened(course: str) -> str:
    """Returns a course's text with no more than some of its tensors."""
    tensors, end, rest = course.partition(")")
    words = tensors.split(", ")
    if len(words) <= MOST_WORDS:
        return course
    return f"{', '.join(words[:MOST_WORDS])}, and {len(words) - MOST_WORDS} more{end}{rest}"
