"""What a host pool hands out, where it ends, and how it is pinned."""

import resource
import sys
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from profiles.schema.errors import CapacityError, SwapplanError
from runtime.host import host_pool
from runtime.host.host_pool import HostFreeList, HostPool, PinnedHostPool

MIB = 1 << 20
GPU = torch.device("cuda", 0)


def test_the_pool_hands_out_only_its_own_bytes() -> None:
    pool = HostPool(100)
    pool.stretch(60, 40)
    with pytest.raises(ValueError, match="outside the pool"):
        pool.stretch(61, 40)
    with pytest.raises(ValueError, match="outside the pool"):
        HostPool(0).stretch(0, 1)


def test_a_pool_larger_than_the_host_is_refused() -> None:
    with pytest.raises(SwapplanError, match="plan solve --host-budget"):
        HostPool(1 << 60)


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


def test_what_a_free_list_has_handed_out_lives_as_long_as_it() -> None:
    """A copy may still use it when all who held it have gone."""
    free_list = HostFreeList()
    stretch = free_list.take(64)
    pool = weakref.ref(stretch.pool)
    del stretch
    assert pool() is not None
    del free_list
    assert pool() is None


def test_a_free_list_takes_memory_for_several_storages_at_once() -> None:
    made: list[int] = []

    def new_pool(size_bytes: int) -> HostPool:
        made.append(size_bytes)
        return HostPool(size_bytes)

    free_list = HostFreeList(new_pool)
    taken = [free_list.take(1000) for _ in range(9)]
    assert made == [1000, 1000, 2000, 4000, 8000]
    spans = sorted((one.address, one.address + one.size_bytes) for one in taken)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "none share a byte"
    free_list.give(taken[3])
    assert free_list.take(1000) is taken[3]


def test_where_there_is_no_room_for_more_it_takes_what_is_asked_for() -> None:
    def new_pool(size_bytes: int) -> HostPool:
        if size_bytes > 1000:
            raise SwapplanError("no room")
        return HostPool(size_bytes)

    free_list = HostFreeList(new_pool)
    assert {free_list.take(1000).pool.size_bytes for _ in range(5)} == {1000}
    with pytest.raises(CapacityError, match="The host has no 1001 bytes left"):
        free_list.take(1001)
