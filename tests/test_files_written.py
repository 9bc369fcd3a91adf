"""Writing a profile or plan file: whole or not at all."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from profiles.errors import FileError
from profiles.files import check_writable
from profiles.profile import write_profile
from tests.saved import PROFILE


def unwritten(write: Callable[[], None], folder: Path) -> str:
    """The message of a write that fails, having left nothing of its own behind."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FileError) as refused:
        write()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.json").mkdir()
    for place in ("absent/x.json", "file/x.json", "folder.json", "n" * 300):
        path = tmp_path / place
        assert str(path) in unwritten(partial(write_profile, PROFILE, path), tmp_path)
        assert str(path) in unwritten(partial(check_writable, path), tmp_path)
    check_writable(tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        unwritten(lambda: write_profile(PROFILE, tmp_path / "x.json"), tmp_path)
    finally:
        tmp_path.chmod(0o700)


class FullDisk:
    """A stream on which every write fails; it owns the handle it was opened with."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.handle)

    def write(self, data: bytes) -> int:
        os.write(self.handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_full_disk_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"older")
    monkeypatch.setattr("profiles.files.os.fdopen", lambda handle, mode: FullDisk(handle))
    message = unwritten(lambda: write_profile(PROFILE, tmp_path / name), tmp_path)
    assert "No space left on device" in message


def test_a_failed_rename_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "x.json").write_bytes(b"older")
    monkeypatch.setattr("profiles.files.os.replace", fail)
    unwritten(lambda: write_profile(PROFILE, tmp_path / "x.json"), tmp_path)


def test_an_interrupted_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    (tmp_path / "x.json").write_bytes(b"older")
    monkeypatch.setattr("profiles.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_profile(PROFILE, tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_bytes() == b"older"
