"""Profile files: read, those of the version before as well, and written.

[Note: version 4] It gave the life of a storage by ops alone, and left out what was freed before the
first op. Anchors that stand between two ops are taken to find what either of them does. And a step
that repeats begins with at least what it ends with: what is missing at the begin was freed before
the first op, so that much is added to what the slots up to there need. So an upgraded profile never
has less memory than was there.
"""

from pathlib import Path
from types import MappingProxyType

from profiles.schema.checks import first_fault
from profiles.schema.course_set import chosen, course_in
from profiles.schema.files import Content, read_file, write_file
from profiles.schema.profile import Profile
from profiles.schema.profile_set import read_profile_set


def read_profile(path: Path | str) -> Profile:
    """Reads a profile file and verifies it; of a file of several, the one that the path names.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    file, number = course_in(Path(path))
    if number is not None:
        return chosen(read_profile_set(file).courses, number, file).profile
    return read_file(Profile, Path(path), first_fault=first_fault, upgrades=UPGRADES)


def write_profile(profile: Profile, path: Path | str) -> None:
    """Writes a profile file, atomically.

    Raises:
        FileError: The path cannot be written.
    """
    write_file(profile, Path(path))


def _from_version_4(content: Content) -> Content:
    """Returns the content of a version 5 file for that of a version 4 file, neither validated."""
    slots, ops = content["slots"], content["ops"]
    slot_of_op = [op["slot"] for op in ops]
    storages = [_with_anchors(storage, slot_of_op, len(slots)) for storage in content["storages"]]
    kept_bytes = sum(s["size_bytes"] for s in storages if s["released_op"] is None)
    found_bytes = sum(s["size_bytes"] for s in storages if s["allocated_op"] is None)
    missing_bytes = max(0, kept_bytes - found_bytes)
    first_used = slot_of_op[0] if slot_of_op else 0
    raised = [
        slot | {"overhead_bytes": slot["overhead_bytes"] + missing_bytes * (t <= first_used)}
        for t, slot in enumerate(slots)
    ]
    return content | {"slots": raised, "storages": storages}


def _with_anchors(storage: Content, slot_of_op: list[int], slot_count: int) -> Content:
    allocated, released = storage["allocated_op"], storage["released_op"]
    first = 0 if allocated is None else slot_of_op[allocated] + 1
    last = slot_count - 1
    if released is not None and released + 1 < len(slot_of_op):
        last = slot_of_op[released + 1]
    return storage | {"allocated_slot": first, "released_slot": last, "touches": []}


UPGRADES = MappingProxyType({4: _from_version_4})
