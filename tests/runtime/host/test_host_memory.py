"""What this host still gives, read from files as Linux writes them; and where a slab is put."""

import ctypes
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from profiles.schema.errors import SwapplanError
from runtime.host import host_pool, numa
from runtime.host.host_memory import check_pools_fit, host_room, locked_limit_text
from runtime.host.host_pool import HostPool, PinnedHostPool

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


def test_the_node_near_a_gpu_is_the_systems_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xDC, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    gpu = torch.device("cuda", 0)
    assert numa.node_near(gpu, tmp_path) is None, "the system does not know the device"
    for text, node in (("1\n", 1), ("-1\n", None)):
        folder = tmp_path / "0000:dc:00.0"
        folder.mkdir(exist_ok=True)
        (folder / "numa_node").write_text(text)
        assert numa.node_near(gpu, tmp_path) == node
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert numa.node_near(gpu, tmp_path) is None, "this torch does not tell the address"


class FakeLibrary:
    """libnuma, as far as it is used; notes what it was asked for."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.asked: list[tuple[int, int, int, list[int], int, int]] = []

    def mbind(self, address, size_bytes, mode, words, bits, flags) -> int:  # type: ignore[no-untyped-def]
        plain = (address.value, size_bytes.value, mode.value, list(words), bits.value, flags.value)
        self.asked.append(plain)
        return self.code


@pytest.mark.parametrize("code", [0, -1])
def test_a_slab_is_put_on_its_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    library = FakeLibrary(code)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    assert not numa.prefer_node(4096, 8192, 1, tmp_path), "one node: nothing to choose"
    (tmp_path / "node1").mkdir()
    assert numa.prefer_node(4096, 8192, 1, tmp_path) is (code == 0)
    numa.prefer_node(4096, 8192, 65, tmp_path)
    assert library.asked == [
        (4096, 8192, 1, [2], 65, 0),
        (4096, 8192, 1, [0, 2], 129, 0),
    ]


def test_without_libnuma_memory_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "node1").mkdir()

    def missing(*_: object, **__: object) -> None:
        raise OSError("libnuma.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with caplog.at_level("INFO", logger="swapplan"):
        assert not numa.prefer_node(4096, 8192, 1, tmp_path)
    assert "left to the system: libnuma.so.1" in caplog.text


class Cudart:
    """The part of the CUDA runtime that pins memory, and what it was asked for."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.registered: dict[int, int] = {}
        self.log: list[str] = []

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:
        assert flags == 0
        self.log.append("register")
        if self.code == 0:
            self.registered[address] = size_bytes
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        self.log.append("unregister")
        del self.registered[address]
        return 0


def with_cudart(monkeypatch: pytest.MonkeyPatch, code: int) -> Cudart:
    cudart = Cudart(code)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(host_pool, "node_near", lambda device: None)
    return cudart


GPU = torch.device("cuda", 0)


def test_a_pool_is_pinned_as_a_whole_until_nobody_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudart = with_cudart(monkeypatch, 0)
    pool = PinnedHostPool(3 * MIB, GPU)
    stretch = pool.stretch(MIB, MIB)
    assert cudart.registered == {pool.address: 3 * MIB}
    del pool
    assert cudart.log == ["register"], "a copy in flight holds a stretch of it"
    del stretch
    assert cudart.log == ["register", "unregister"]
    assert PinnedHostPool(0, GPU).size_bytes == 0
    assert cudart.log == ["register", "unregister"], "an empty plan pins nothing"


def test_a_pool_that_cannot_be_pinned_says_what_limits_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudart = with_cudart(monkeypatch, 2)
    forgotten: list[torch.device] = []
    monkeypatch.setattr(host_pool, "_forget_last_error", forgotten.append)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 * 1024, 64 * 1024))
    with pytest.raises(SwapplanError, match=r"could not be pinned.*'ulimit -l'.*--host-budget"):
        PinnedHostPool(MIB, GPU)
    assert forgotten == [GPU], "or the next kernel would fail for it"
    assert cudart.log == ["register"]


def test_kernels_ask_the_driver_for_the_pools_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cudart(monkeypatch, 0)
    pool = PinnedHostPool(MIB, GPU)
    asked: list[tuple[int, int]] = []

    def device_pointer(address: int, flags: int) -> tuple[int, int]:
        asked.append((address, flags))
        return 0, 4096

    driver = SimpleNamespace(cuMemHostGetDevicePointer=device_pointer)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=driver))
    assert [pool.stretch(offset, 1).device_address for offset in (0, 16)] == [4096, 4112]
    assert asked == [(pool.address, 0)], "once"
    driver.cuMemHostGetDevicePointer = lambda *_: (1, 0)
    with pytest.raises(SwapplanError, match="Solve again"):
        _ = PinnedHostPool(MIB, GPU).device_address
