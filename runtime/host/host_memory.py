"""Host memory that this process may still take: what is free, and what its cgroups allow.

[Note: locked memory] `ulimit -l` limits what a process locks by itself (`mlock`). NVIDIA's driver
pins pages in its own way and does not count them there, so a pool above that limit is usually
pinned all the same; where it is not, the limit is named as a likely reason.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from profiles.schema.errors import SwapplanError
from profiles.schema.units import UNIT_BYTES, size_text

KIB = UNIT_BYTES["KiB"]
MIB = UNIT_BYTES["MiB"]
ROOT = Path("/")
"""Where `/proc` and `/sys` are found."""


class Room(NamedTuple):
    """Bytes that can still be taken, and what says that it is no more."""

    size_bytes: int
    said_by: str


class _Controller(NamedTuple):
    """The files in which one version of cgroups has the most bytes allowed and those in use."""

    limit: str
    usage: str
    reclaimable: str
    """The line of `memory.stat` with the file cache that would make room."""


_V1 = _Controller("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Controller("memory.max", "memory.current", "inactive_file")


def host_room(root: Path = ROOT) -> Room:
    """Returns the least of what is free and what each cgroup of this process still allows."""
    return min([_free(root), *_cgroup_rooms(root)])


def check_pools_fit(size_bytes: int, count: int = 1, root: Path = ROOT) -> None:
    """Checks that the host has room for the pools of `count` workers.

    Raises:
        SwapplanError: It has not.
    """
    room = host_room(root)
    if size_bytes * count <= room.size_bytes:
        return
    needs = "host pool needs" if count == 1 else f"host pools of {count} workers need"
    raise SwapplanError(
        f"The plan's {needs} {size_text(size_bytes * count)}, {room.said_by} leaves "
        f"{size_text(room.size_bytes)}. Plan for less with 'plan solve --host-budget "
        f"{room.size_bytes // count // MIB}MiB'."
    )


def locked_limit_text(size_bytes: int) -> str:
    """The end of a sentence if `ulimit -l` is below a size; see [Note: locked memory]."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit_bytes == resource.RLIM_INFINITY or limit_bytes >= size_bytes:
        return ""
    return f"; the limit on locked memory is {size_text(limit_bytes)} ('ulimit -l')"


def _free(root: Path) -> Room:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        # No generator that is left early: Python swallows an interrupt while it closes one.
        free = [line for line in lines if line.startswith("MemAvailable:")]
        return Room(int(free[0].split()[1]) * KIB, "the host's free memory")
    except (OSError, IndexError):
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return Room(os.sysconf("SC_PAGE_SIZE") * pages, "the host's free memory")


def _cgroup_rooms(root: Path) -> Iterator[Room]:
    for folder, controller in _cgroup_folders(root):
        limit_bytes = _number(folder / controller.limit)
        usage_bytes = _number(folder / controller.usage)
        if limit_bytes is not None and usage_bytes is not None:
            kept_bytes = max(0, usage_bytes - _reclaimable_bytes(folder, controller))
            allowed = f"the memory limit of cgroup {folder} ({size_text(limit_bytes)})"
            yield Room(max(0, limit_bytes - kept_bytes), allowed)


def _cgroup_folders(root: Path) -> Iterator[tuple[Path, _Controller]]:
    """Every cgroup that this process is in, its ancestors too: each has a limit of its own."""
    mounts = dict(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, names, path = line.split(":", 2)
        controller = _V2 if number == "0" else _V1
        if controller is _V1 and "memory" not in names.split(","):
            continue
        if controller not in mounts:
            continue
        mounted, within = mounts[controller]
        inside = PurePosixPath(path)
        # A mount may itself show only a part of the tree, as in a container.
        inside = inside.relative_to(within if inside.is_relative_to(within) else "/")
        for ancestor in (inside, *inside.parents):
            yield root / mounted.relative_to("/") / ancestor, controller


def _mounts(root: Path) -> Iterator[tuple[_Controller, tuple[PurePosixPath, PurePosixPath]]]:
    """Where cgroups are mounted, and which of them is seen there; proc(5), mountinfo."""
    for line in _lines(root / "proc/self/mountinfo"):
        ahead, _, behind = line.partition(" - ")
        within, mounted = map(PurePosixPath, ahead.split()[3:5])
        kind, _, options = behind.split(" ", 2)
        if kind == "cgroup2":
            yield _V2, (mounted, within)
        elif kind == "cgroup" and "memory" in options.split(","):
            yield _V1, (mounted, within)


def _number(path: Path) -> int | None:
    """The file's number; None if there is none: no such file, or no limit ("max")."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _reclaimable_bytes(folder: Path, controller: _Controller) -> int:
    lines = map(str.split, _lines(folder / "memory.stat"))
    return sum(int(value) for name, value in lines if name == controller.reclaimable)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
