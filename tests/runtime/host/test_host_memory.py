"""What this host still gives, read from files as Linux writes them."""

import resource
from pathlib import Path

import pytest

from profiles.schema.errors import SwapplanError
from runtime.host.host_memory import check_pools_fit, host_room, locked_limit_text
from runtime.host.host_pool import HostPool

MIB = 1 << 20
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
OTHER = "36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n"


def write(root: Path, **files: str | int) -> None:
    """Writes files; `__` stands for a slash in their names."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}".rstrip() + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with 1 GiB free and no cgroups."""
    write(tmp_path, proc__meminfo="MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB")
    return tmp_path


def cgroup(root: Path, folder: str, names: tuple[str, str], limit: str | int, usage: int) -> None:
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / names[0]).write_text(f"{limit}\n")
    (path / names[1]).write_text(f"{usage}\n")


MAX = ("memory.max", "memory.current")
LIMIT = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_without_cgroups_it_is_what_is_free(root: Path) -> None:
    room = host_room(root)
    assert (room.size_bytes, room.said_by) == (1 << 30, "the host's free memory")


def test_a_version_2_limit_counts_and_file_cache_makes_room(root: Path) -> None:
    write(root, proc__self__cgroup="0::/job/step", proc__self__mountinfo=V2)
    cgroup(root, "sys/fs/cgroup/job/step", MAX, 500 * MIB, 450 * MIB)
    assert host_room(root).size_bytes == 50 * MIB
    (root / "sys/fs/cgroup/job/step/memory.stat").write_text(f"file 1\ninactive_file {30 * MIB}\n")
    room = host_room(root)
    assert room.size_bytes == 80 * MIB
    assert room.said_by.endswith("sys/fs/cgroup/job/step (500.00 MiB)")


def test_an_ancestors_limit_counts_too(root: Path) -> None:
    write(root, proc__self__cgroup="0::/job/step", proc__self__mountinfo=V2)
    cgroup(root, "sys/fs/cgroup/job/step", MAX, "max", 300 * MIB)
    cgroup(root, "sys/fs/cgroup/job", MAX, 400 * MIB, 390 * MIB)
    assert host_room(root).size_bytes == 10 * MIB


def test_a_full_cgroup_leaves_nothing(root: Path) -> None:
    write(root, proc__self__cgroup="0::/job", proc__self__mountinfo=V2)
    cgroup(root, "sys/fs/cgroup/job", MAX, 400 * MIB, 410 * MIB)
    assert host_room(root).size_bytes == 0


def test_a_version_1_limit_counts(root: Path) -> None:
    groups = "9:name=systemd:/\n5:devices:/other\n4:cpu,memory:/job\n0::/"
    write(root, proc__self__cgroup=groups, proc__self__mountinfo=OTHER + V1)
    cgroup(root, "sys/fs/cgroup/memory/job", LIMIT, 600 * MIB, 100 * MIB)
    cgroup(root, "sys/fs/cgroup/memory", LIMIT, 9223372036854771712, 200 * MIB)
    assert host_room(root).size_bytes == 500 * MIB


def test_a_container_sees_its_own_part_of_the_tree(root: Path) -> None:
    mount = V1.replace(" / /sys", " /docker/abc /sys")
    write(root, proc__self__cgroup="4:memory:/docker/abc", proc__self__mountinfo=mount)
    cgroup(root, "sys/fs/cgroup/memory", LIMIT, 70 * MIB, 10 * MIB)
    assert host_room(root).size_bytes == 60 * MIB


def test_a_host_that_tells_nothing_still_has_an_answer(tmp_path: Path) -> None:
    assert host_room(tmp_path).size_bytes > 0


def test_too_large_a_pool_is_refused_in_one_line(root: Path) -> None:
    check_pools_fit(1 << 30, root=root)
    with pytest.raises(SwapplanError) as told:
        check_pools_fit((1 << 30) + 1, root=root)
    assert str(told.value) == (
        "The plan's host pool needs 1.00 GiB, the host's free memory leaves 1.00 GiB. Plan for "
        "less with 'plan solve --host-budget 1024MiB'."
    )
    with pytest.raises(SwapplanError, match=r"host pools of 4 workers need 2.00 GiB.* 256MiB'"):
        check_pools_fit(1 << 29, 4, root)


def test_a_pool_no_host_has_room_for_is_refused() -> None:
    with pytest.raises(SwapplanError, match=r"needs 4096.00 TiB.*--host-budget"):
        HostPool(1 << 52)


def test_the_limit_on_locked_memory_is_named_only_where_it_is_lower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 * MIB, resource.RLIM_INFINITY))
    assert locked_limit_text(8 * MIB) == ""
    told = locked_limit_text(8 * MIB + 1)
    assert told == "; the limit on locked memory is 8.00 MiB ('ulimit -l')"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert locked_limit_text(1 << 50) == ""
