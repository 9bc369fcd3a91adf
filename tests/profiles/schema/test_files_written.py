"""Writing a profile or plan file: whole or not at all."""

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from profiles.schema.errors import FileError
from profiles.schema.files import check_writable, write_atomically
from profiles.schema.profile_file import read_profile, write_profile
from tests.support.commands import running
from tests.support.planning.edited_files import PROFILE


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
    monkeypatch.setattr("profiles.schema.files.os.fdopen", lambda handle, mode: FullDisk(handle))
    message = unwritten(lambda: write_profile(PROFILE, tmp_path / name), tmp_path)
    assert "No space left on device" in message


def test_a_failed_rename_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "x.json").write_bytes(b"older")
    monkeypatch.setattr("profiles.schema.files.os.replace", fail)
    unwritten(lambda: write_profile(PROFILE, tmp_path / "x.json"), tmp_path)


def test_an_interrupted_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    (tmp_path / "x.json").write_bytes(b"older")
    monkeypatch.setattr("profiles.schema.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_profile(PROFILE, tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_bytes() == b"older"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(
    tmp_path: Path, mask: int, mode: int
) -> None:
    with umask(mask):
        write_profile(PROFILE, tmp_path / "x.json")
    assert (tmp_path / "x.json").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_an_older_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "x.json"
    path.write_text("older")
    path.chmod(mode)
    write_profile(PROFILE, path)
    assert path.stat().st_mode & 0o7777 == mode
    path.chmod(0o600)
    assert read_profile(path) == PROFILE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_older_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("older")
    os.chown(path, 65534, 65534)
    write_profile(PROFILE, path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@pytest.mark.parametrize("there", [True, False])
def test_a_symlink_is_written_through(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "x.json"
    if there:
        target.write_text("older")
    (tmp_path / "one.json").symlink_to(target)
    (tmp_path / "two.json").symlink_to("one.json")
    check_writable(tmp_path / "two.json")
    write_profile(PROFILE, tmp_path / "two.json")
    assert (tmp_path / "two.json").readlink() == Path("one.json")
    assert (tmp_path / "one.json").readlink() == target
    assert read_profile(target) == PROFILE
    assert [path.name for path in target.parent.iterdir()] == ["x.json"]


def test_symlinks_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "lost").symlink_to("absent/x.json")
    for name in ("round", "lost"):
        path = tmp_path / name
        assert str(path) in unwritten(partial(write_profile, PROFILE, path), tmp_path)
        assert str(path) in unwritten(partial(check_writable, path), tmp_path)
        assert path.is_symlink()


def test_a_device_is_written_into() -> None:
    before = os.stat("/dev/null")
    check_writable(Path("/dev/null"))
    write_profile(PROFILE, Path("/dev/null"))
    assert os.stat("/dev/null").st_rdev == before.st_rdev


def test_a_full_device() -> None:
    with pytest.raises(FileError, match="No space left on device"):
        write_profile(PROFILE, Path("/dev/full"))


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo, heard = tmp_path / "fifo", []
    os.mkfifo(fifo)
    # Open for both, so that the reader is there before the writer looks.
    opened = os.open(fifo, os.O_RDWR)
    reader = Thread(target=lambda: heard.append(os.read(opened, 100)))
    reader.start()
    check_writable(fifo)
    write_atomically(b"data", fifo)
    reader.join()
    os.close(opened)
    assert heard == [b"data"]
    assert fifo.is_fifo()


def test_a_fifo_that_is_not_read_from_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="fifo: cannot be written"):
        write_atomically(b"data", tmp_path / "fifo")
    assert (tmp_path / "fifo").is_fifo()


def test_a_socket_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for write in (partial(write_atomically, b"data"), check_writable):
            with pytest.raises(FileError, match="it is a socket"):
                write(Path("socket"))
        assert Path("socket").is_socket()


@pytest.mark.parametrize("letter", ["n", "ü"])
def test_a_name_as_long_as_names_can_be(tmp_path: Path, letter: str) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    name = letter * (longest // len(letter.encode()))
    check_writable(tmp_path / name)
    write_profile(PROFILE, tmp_path / name)
    assert read_profile(tmp_path / name) == PROFILE
    unwritten(partial(write_profile, PROFILE, tmp_path / (name + "nn")), tmp_path)


HALFWAY = """
import time
from profiles.schema import files

def wait(source, target):
    print("halfway", flush=True)
    time.sleep(3600)

files.os.replace = wait
"""


def test_a_command_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "x.profile.json")
    (tmp_path / "out").mkdir()
    options = ("--budget", "15", "--min-size", "1", "-o", tmp_path / "out" / "x.plan.json")
    with running("solve", tmp_path / "x.profile.json", *options, prepare=HALFWAY) as process:
        assert process.stdout is not None
        assert "halfway" in process.stdout.readline()
        assert len(list((tmp_path / "out").iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert list((tmp_path / "out").iterdir()) == []
