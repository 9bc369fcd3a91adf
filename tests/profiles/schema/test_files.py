"""Profile and plan files: what comes back, and what is refused and how."""

import gzip
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from planner.plan.plan_file import read_plan, write_plan
from profiles.schema.errors import FileError
from profiles.schema.files import Content, FileRecord, format_of, read_file
from profiles.schema.profile_file import read_profile, write_profile
from tests.support.planning.edited_files import (
    PROFILE,
    plan_of_it,
    refusal,
    refused,
    write_json,
)


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    write_profile(PROFILE, tmp_path / name)
    assert read_profile(tmp_path / name) == PROFILE
    assert format_of(tmp_path / name) == "swapplan-profile"
    write_plan(plan_of_it(), tmp_path / name)
    assert read_plan(tmp_path / name) == plan_of_it()
    assert format_of(tmp_path / name) == "swapplan-plan"


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.json.gz", "two.json.gz"):
        write_profile(PROFILE, tmp_path / name)
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.json.gz").read_bytes()).startswith(b"{")


def test_a_compressed_file_is_known_by_its_content(tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "x.json.gz")
    (tmp_path / "x.json").write_bytes((tmp_path / "x.json.gz").read_bytes())
    assert read_profile(tmp_path / "x.json") == PROFILE


def test_flipped_bits_in_a_compressed_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    write_profile(PROFILE, path)
    data = path.read_bytes()
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        # A flip in the header's idle bytes changes nothing.
        assert refusal(read_profile, path) or read_profile(path) == PROFILE


class Colours(FileRecord):
    """A file whose older versions are still read."""

    FORMAT: ClassVar[str] = "colours"
    VERSION: ClassVar[int] = 3
    REMAKE: ClassVar[str] = "paint"

    colours: tuple[str, ...]


def lowered(content: Content) -> Content:
    lower = {"colours": [value.lower() for value in content["colours"]]}
    return {key: value for key, value in content.items() if key != "colour"} | lower


read_colours = partial(
    read_file,
    Colours,
    upgrades={1: lambda content: content | {"colours": [content["colour"]]}, 2: lowered},
)


@pytest.mark.parametrize(
    "older",
    [
        {"version": 1, "colour": "RED"},
        {"version": 2, "colours": ["RED"]},
        {"version": 3, "colours": ["red"]},
    ],
)
def test_older_versions_are_upgraded_one_by_one(tmp_path: Path, older: Content) -> None:
    path = tmp_path / "x.json"
    write_json({"format": "colours", "created_by": "a test", **older}, path)
    assert read_colours(path) == Colours(
        format="colours", version=3, created_by="a test", colours=("red",)
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"version": 1}, "not what a colours of version 1 holds"),
        ({"version": 2, "colours": [7]}, "not what a colours of version 2 holds"),
        ({"version": 1, "colour": 7}, "not what a colours of version 2 holds"),
        ({"version": 1.0, "colour": "RED"}, "version is 1.0, this swapplan reads version 3"),
        ({"version": True, "colour": "RED"}, "version is True, this swapplan reads version 3"),
        ({"version": [1], "colour": "RED"}, "version is [1], this swapplan reads version 3"),
        ({"version": 0, "colour": "RED"}, "version is 0, this swapplan reads version 3"),
        ({"version": 4, "colour": "RED"}, "version is 4, this swapplan reads version 3"),
    ],
)
def test_what_cannot_be_upgraded(tmp_path: Path, content: Content, said: str) -> None:
    path = tmp_path / "x.json"
    write_json({"format": "colours", "created_by": "a test", **content}, path)
    assert said in refused(read_colours, path)


def test_not_a_file(tmp_path: Path) -> None:
    assert "no such file" in refused(read_profile, tmp_path / "absent.json")
    refused(read_profile, tmp_path)
    with pytest.raises(FileError, match="no such file"):
        format_of(tmp_path / "absent.json")


def test_format_of_a_foreign_file(tmp_path: Path) -> None:
    for data in (b"", b"[]", b"{}", b'{"format": 3}', b"\x1f\x8b", b"text"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(FileError) as refused:
            format_of(tmp_path / "x")
        assert "\n" not in str(refused.value)
