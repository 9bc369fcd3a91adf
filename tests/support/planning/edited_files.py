"""Profile and plan files with something changed, and what their readers say of them."""

import copy
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from planner.plan.plan_set import CoursePlan, PlanSet, read_plan_set
from planner.solving import solve
from profiles.schema.errors import FileError
from profiles.schema.files import CREATED_BY, FileRecord
from profiles.schema.profile import StorageKind
from profiles.schema.profile_file import read_profile
from profiles.schema.profile_set import CourseProfile, ProfileSet, read_profile_set
from tests.support.planning.toys import activation, fixed, resident, toy

Read = Callable[[Path], FileRecord]

KINDS = ["profile", "plan"]
SETS = ["profiles", "plans"]
"""Files of several courses."""
READ: dict[str, Read] = {
    "profile": read_profile,
    "plan": read_plan,
    "profiles": read_profile_set,
    "plans": read_plan_set,
}
PROFILE = toy(
    10,
    20,
    10,
    10,
    5,
    storages=[
        activation("pack:0", 6, 0, 3),
        activation("pack:1", 4, 1, 2),
        resident("parameter:w", 5, 1, 3, writes=[3]),
        resident("state:w.exp_avg", 5, 4, kind=StorageKind.OPTIMIZER_STATE, writes=[4]),
        fixed("workspace", 6, 2),
    ],
)


@cache
def plan_of_it() -> Plan:
    """Two swaps that meet on the host: an activation, and a state across the step boundary."""
    plan = solve(PROFILE, budget_bytes=15, host_budget_bytes=100, min_size_bytes=1)
    assert [(swap.storage, swap.wraps) for swap in plan.swaps] == [(0, False), (3, True)]
    return plan


COURSES = ("model(float32[8x4])", "model(float32[6x4])")


def profiles_of_it() -> ProfileSet:
    courses = tuple(CourseProfile(course=course, profile=PROFILE) for course in COURSES)
    return ProfileSet(
        format=ProfileSet.FORMAT, version=ProfileSet.VERSION, created_by=CREATED_BY, courses=courses
    )


def plans_of_it() -> PlanSet:
    courses = tuple(CoursePlan(course=course, plan=plan_of_it()) for course in COURSES)
    return PlanSet(
        format=PlanSet.FORMAT, version=PlanSet.VERSION, created_by=CREATED_BY, courses=courses
    )


def record(kind: str) -> FileRecord:
    makers: dict[str, Callable[[], FileRecord]] = {
        "profile": lambda: PROFILE,
        "plan": plan_of_it,
        "profiles": profiles_of_it,
        "plans": plans_of_it,
    }
    return makers[kind]()


def content_of(whole: FileRecord) -> Any:
    """What a record's file holds, as plain lists and dicts."""
    return json.loads(whole.model_dump_json())


def write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content))


# Edits

Edit = Mapping[str, Any]
"""New values by place, such as `slots.-1.anchor`. A function makes the new value of the old one."""
ABSENT = object()
"""The value of a field that is taken out."""


def edited(content: Any, edit: Edit) -> Any:
    """Returns an edited copy of a file's content."""
    content = copy.deepcopy(content)
    for place, value in edit.items():
        *outer, last = (
            int(part) if part.lstrip("-").isdigit() else part for part in place.split(".")
        )
        parent = reduce(operator.getitem, outer, content)
        if value is ABSENT:
            del parent[last]
        else:
            parent[last] = value(parent[last]) if callable(value) else value
    return content


def write_edited(whole: FileRecord, edit: Edit, path: Path) -> Path:
    write_json(edited(content_of(whole), edit), path)
    return path


FREE_SIGN = frozenset({"seed"})
"""Integers that may be negative."""
MAY_BE_ANY_NUMBER = frozenset({"both_bytes_per_us", "kernel_us"})
"""Fields that are a number or nothing, and may be any number from 0 up."""
MAY_BE_ABSENT = frozenset(
    {
        *("model", "rebuilds", "recompute_us", "traits", "without", "without_bytes"),
        *("without_checkpointing", "workspace_bytes", "workspaces"),
    }
)
"""Fields that older files do not have."""


def wrong_edits(content: Any, *place: str) -> Iterator[tuple[str, Any]]:
    """Every field of the first and last record of every list, edited in every way that is wrong.

    Only type and sign are edited: whatever the field means, its reader must refuse them.
    """
    if isinstance(content, dict):
        yield ".".join((*place, "no_such_field")), 1
        for key, value in content.items():
            if key not in MAY_BE_ABSENT:
                yield ".".join((*place, key)), ABSENT
            yield from wrong_edits(value, *place, key)
    if isinstance(content, list):
        for i in sorted({0, len(content) - 1} & set(range(len(content)))):
            yield from wrong_edits(content[i], *place, str(i))
    if place:
        yield from ((".".join(place), value) for value in _wrong_values(place[-1], content))


def _wrong_values(field: str, value: Any) -> list[Any]:
    """Values of another type, another sign, or no member of the enum."""
    match value:
        case bool():
            return ["yes", None]
        case int():
            negative = [] if field in FREE_SIGN else [-1]
            return [*negative, "1", 1.5, True, [value], {}, float("nan")]
        case float():
            return [-1.0, "1", True, [value], float("nan"), float("inf"), float("-inf")]
        case str():
            return [7, None, True, [value]]
        case None:
            numbers = [-1.0] if field in MAY_BE_ANY_NUMBER else [-1, 1.5, 10**30]
            return [*numbers, "no such value", {}]
        case _:
            return [None, 7, "text", True]


# Readers


def refusal(read: Read, path: Path) -> str | None:
    """The message a file is refused with, one line that names it; None if it is accepted."""
    try:
        read(path)
    except FileError as error:
        message = str(error)
    else:
        return None
    if "\n" in message or not message.startswith(f"{path}: "):
        raise AssertionError(f"not one line that names the file: {message!r}")
    return message


def refused(read: Read, path: Path) -> str:
    """The message a broken file is refused with."""
    message = refusal(read, path)
    assert message is not None, "accepted"
    return message
