"""The profiles of a training's courses, in one file."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from profiles.schema.checks import first_fault
from profiles.schema.course_set import MOST_COURSES, CourseText, courses_fault
from profiles.schema.files import FileRecord, Record, read_file, write_file
from profiles.schema.profile import Profile


class CourseProfile(Record):
    """One course of a training, recorded."""

    course: CourseText
    profile: Profile


class ProfileSet(FileRecord):
    """The courses of one training, recorded, in the order they were met in."""

    FORMAT: ClassVar[str] = "swapplan-profiles"
    VERSION: ClassVar[int] = 1
    REMAKE: ClassVar[str] = "plan profile --courses"

    courses: tuple[CourseProfile, ...] = Field(min_length=1, max_length=MOST_COURSES)


def read_profile_set(path: Path | str) -> ProfileSet:
    """Reads a file of profiles and verifies each.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    return read_file(ProfileSet, Path(path), first_fault=_set_fault)


def write_profile_set(profiles: ProfileSet, path: Path | str) -> None:
    """Writes a file of profiles, atomically.

    Raises:
        FileError: The path cannot be written.
    """
    write_file(profiles, Path(path))


def _set_fault(profiles: ProfileSet) -> str | None:
    return courses_fault([(one.course, one.profile) for one in profiles.courses], first_fault)
