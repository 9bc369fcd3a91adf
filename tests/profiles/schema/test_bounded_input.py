"""Input files that are no files, or hold more than any step: refused before they are held."""

import gzip
import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from profiles.schema import bounded_input
from profiles.schema.errors import FileError, is_plain, plain
from profiles.schema.files import format_of, write_file
from profiles.schema.profile_file import read_profile, write_profile
from tests.support.commands import ROOT, python
from tests.support.planning.edited_files import (
    KINDS,
    PROFILE,
    READ,
    SETS,
    content_of,
    record,
    refused,
    write_json,
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "a FIFO, expected a regular file" in refused(READ[kind], tmp_path / "fifo")
    assert "a device, expected a regular file" in refused(READ[kind], Path("/dev/zero"))
    with pytest.raises(FileError, match="a FIFO"):
        format_of(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" + b"0," * 1000 + b"0]", "more than 500 values"),
        (b"[" + b"{}," * 100 + b"{}]", "more than 60 records"),
        (b"[" + b"[]," * 50 + b"[]]", "more than 40 lists"),
        (b'{"format": "' + b"x" * 10_000 + b'"}', "more than 4,096 bytes"),
        (json.dumps({str(n): n for n in range(100)}).encode(), "more than 64 fields"),
    ],
    ids=["numbers", "records", "lists", "bytes", "fields"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str, packed: bool
) -> None:
    monkeypatch.setattr(bounded_input, "MAX_BYTES", 4096)
    monkeypatch.setattr(bounded_input, "MAX_VALUES", 500)
    monkeypatch.setattr(bounded_input, "MAX_RECORDS", 60)
    monkeypatch.setattr(bounded_input, "MAX_LISTS", 40)
    path = tmp_path / "x.json"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert said in refused(read_profile, path)


def test_the_bounds_leave_room_for_much_larger_steps() -> None:
    """The largest step of the library has 10,513 ops; steps of six times as many are read."""
    packed = (ROOT / "profiles/library/gpt2-xl-h200.profile.json.gz").read_bytes()
    data = gzip.decompress(packed)
    assert 5 * len(data) < bounded_input.MAX_BYTES
    assert 5 * data.count(b"{") < bounded_input.MAX_RECORDS
    assert 5 * (data.count(b"{") + data.count(b"[") + data.count(b",")) < bounded_input.MAX_VALUES


READ_WITHIN = """
import resource, sys
from pathlib import Path
from runtime.cli.app import main
limit = int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
code = main(["show", sys.argv[2]])
status = Path("/proc/self/status").read_text()
# Of this program alone: `ru_maxrss` begins with that of the process that started it.
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""


def shown_within(limit_mib: int, path: Path) -> "CompletedProcess[str]":
    return python(READ_WITHIN, str(limit_mib), str(path), check=False)


def test_a_small_file_that_unpacks_to_much(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"[" + b"[]," * 14_000_000 + b"0]", 1))
    shown = shown_within(2000, path)
    assert shown.returncode == 2
    assert "more than" in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert int(shown.stdout.splitlines()[-1]) < 500 * 1024


def test_memory_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    content = content_of(PROFILE)
    content["ops"] *= 20_000
    path.write_text(json.dumps(content))
    shown = shown_within(200, path)
    assert shown.returncode == 2, shown.stderr
    assert "not enough memory" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_the_first_of_many_faults_is_named(tmp_path: Path) -> None:
    content = content_of(PROFILE)
    content["ops"] = [{} for _ in range(100_000)]
    write_json(content, tmp_path / "x.json")
    assert "ops[0].name" in refused(read_profile, tmp_path / "x.json")


ESCAPE = "\x1b[31mred"


@pytest.mark.parametrize(
    "text", [ESCAPE, "a\nb", "a\rb", "a\x07", "a\x9b31m", "a\u202eb", "a\u2028b", "\x7f"]
)
@pytest.mark.parametrize("kind", [*KINDS, *SETS])
def test_control_characters_in_names(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / "x.json"
    for place in places_of_names(content_of(record(kind))):
        content = content_of(record(kind))
        parent = content
        for part in place[:-1]:
            parent = parent[part]
        parent[place[-1]] = text
        write_json(content, path)
        message = refused(READ[kind], path)
        assert is_plain(message)
        assert "control characters" in message


def places_of_names(content: Any) -> list[tuple[str | int, ...]]:
    if "courses" in content:
        (within,) = content["courses"][1].keys() - {"course"}
        each = places_of_names(content["courses"][1][within])
        return [("courses", 1, "course"), *(("courses", 1, within, *place) for place in each)]
    places: list[tuple[str | int, ...]] = [
        ("created_by",),
        ("device", "name"),
        ("link", "name"),
        ("storages", 0, "name"),
        ("storages", 1, "module"),
        ("slots", 1, "anchor"),
    ]
    return places + ([("ops", 0, "name")] if "ops" in content else [("slots", 0, "peak_op")])


@pytest.mark.parametrize("text", ["naïve.层.é", "a b", "😀", "a\u00a0b", "back\\slash", '"'])
def test_all_other_characters_are_names(tmp_path: Path, text: str) -> None:
    storages = PROFILE.storages
    named = (storages[0].model_copy(update={"name": text}), *storages[1:])
    profile = PROFILE.model_copy(update={"storages": named})
    write_profile(profile, tmp_path / "x.json")
    assert read_profile(tmp_path / "x.json") == profile


def test_a_name_with_control_characters_is_not_written(tmp_path: Path) -> None:
    storages = PROFILE.storages
    named = (storages[0].model_copy(update={"name": ESCAPE}), *storages[1:])
    with pytest.raises(FileError, match=r"storages\[0\].name holds"):
        write_file(PROFILE.model_copy(update={"storages": named}), tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_a_setting_of_the_workload_may_be_any_text(tmp_path: Path) -> None:
    source = PROFILE.workload.model_copy(update={"settings": (("text", "two\nlines"),)})
    profile = PROFILE.model_copy(update={"workload": source})
    write_profile(profile, tmp_path / "x.json")
    assert read_profile(tmp_path / "x.json") == profile


def test_text_is_written_out_for_terminals() -> None:
    assert plain("é😀 \x1b[31m\n\x9b\u202e\udcff") == "é😀 \\x1b[31m\\n\\x9b\\u202e\\udcff"
