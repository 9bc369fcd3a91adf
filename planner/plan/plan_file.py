"""Plan files, read and written."""

from pathlib import Path

from planner.plan.plan import Plan
from planner.plan.plan_set import read_plan_set, read_unverified_plan_set
from planner.plan.verify import first_fault
from profiles.schema.course_set import chosen, course_in
from profiles.schema.files import read_file, write_file


def read_plan(path: Path | str) -> Plan:
    """Reads a plan file and verifies it; of a file of several, the one that the path names.

    Raises:
        FileError: The file is missing, damaged, foreign, of another version, or its swaps break
            an invariant.
    """
    file, number = course_in(Path(path))
    if number is not None:
        return chosen(read_plan_set(file).courses, number, file).plan
    return read_file(Plan, Path(path), first_fault=first_fault)


def read_unverified_plan(path: Path | str) -> Plan:
    """Reads a plan as its file has it, whatever its figures say.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    file, number = course_in(Path(path))
    if number is not None:
        return chosen(read_unverified_plan_set(file).courses, number, file).plan
    return read_file(Plan, Path(path))


def write_plan(plan: Plan, path: Path | str) -> None:
    """Writes a plan file, atomically.

    Raises:
        FileError: The path cannot be written.
    """
    write_file(plan, Path(path))
