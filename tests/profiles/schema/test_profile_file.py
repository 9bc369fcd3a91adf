"""Profiles of version 4 are read, and never with less memory than the step had."""

from pathlib import Path
from typing import Any

import pytest

from profiles.schema.checks import verified
from profiles.schema.errors import FileError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile
from tests.support.planning.edited_files import content_of, write_json
from tests.support.planning.toys import activation, fixed, gradient, resident, toy


def as_version_4(profile: Profile) -> dict[str, Any]:
    content = content_of(profile)
    content.pop("model", None)
    for storage in content["storages"]:
        for field in ("allocated_slot", "released_slot", "touches"):
            storage.pop(field)
    return content | {"version": 4}


def read_again(profile: Profile, folder: Path) -> Profile:
    path = folder / "x.profile.json"
    write_json(as_version_4(profile), path)
    return read_profile(path)


def needs(profile: Profile) -> list[int]:
    return [slot.resident_bytes for slot in slot_memory(profile)]


def test_a_storage_is_taken_to_live_until_the_next_op(tmp_path: Path) -> None:
    """Version 4 did not say whether it is freed before or after the anchors in between."""
    freed = activation("pack:0", 8, 0, 1)
    storages = [freed, fixed("op:2", 2, 2), resident("parameter:w", 1, 0)]
    profile = toy(10, 10, 10, 10, storages=storages, ops=[1, 1, 0, 1])
    assert needs(profile) == [9, 9, 1, 3, 1]
    assert needs(read_again(profile, tmp_path)) == [9, 9, 9, 9, 3]


def test_what_was_freed_before_the_first_op_is_added_again(tmp_path: Path) -> None:
    """A step that leaves a gradient finds the one before, though version 4 left it out."""
    profile = toy(10, 10, storages=[gradient("grad:w", 8, 1), resident("parameter:w", 4, 0, 1)])
    upgraded = read_again(profile, tmp_path)
    assert upgraded.version == Profile.VERSION
    assert [slot.overhead_bytes for slot in upgraded.slots] == [8, 0, 0]
    assert needs(upgraded) == [12, 12, 12]


def test_a_profile_that_was_built_is_verified() -> None:
    profile = toy(10, 10, storages=[resident("parameter:w", 4, 0, 1)])
    assert verified(profile) is profile
    broken = profile.model_copy(update={"slots": profile.slots[1:]})
    with pytest.raises(FileError, match="no such profile: slots run from 'anchor:1' to 'end'"):
        verified(broken)
