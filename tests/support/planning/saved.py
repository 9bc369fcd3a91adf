"""A profile and its plan, as files to be broken."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from planner.plan.plan import Plan, read_plan
from planner.solving import solve
from profiles.schema.errors import FileError
from profiles.schema.files import FileRecord
from profiles.schema.profile import StorageKind
from profiles.schema.profile_file import read_profile
from tests.support.planning.toys import activation, fixed, resident, toy

Read = Callable[[Path], FileRecord]

KINDS = ["profile", "plan"]
READ: dict[str, Read] = {"profile": read_profile, "plan": read_plan}
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
    """A plan with at least one swap of an activation."""
    plan = solve(PROFILE, budget_bytes=15, host_budget_bytes=100, min_size_bytes=1)
    assert 0 in {swap.storage for swap in plan.swaps}
    return plan


def record(kind: str) -> FileRecord:
    return PROFILE if kind == "profile" else plan_of_it()


def content_of(whole: FileRecord) -> Any:
    """What stands in its file, as plain lists and dicts."""
    return json.loads(whole.model_dump_json())


def write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content))


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
