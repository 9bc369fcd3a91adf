"""Host memory that swapped-out bytes wait in: one slab for a plan, or one for each storage."""

import ctypes
import mmap
import weakref
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch

from profiles.hooks.mode_stack import unseen
from profiles.hooks.plain_tensors import address_of
from profiles.recording.allocator_peaks import rounded_bytes
from profiles.schema.errors import CapacityError, SwapplanError
from profiles.schema.units import size_text
from runtime.host.host_memory import check_pools_fit, locked_limit_text
from runtime.host.numa import node_near, prefer_node


@dataclass(frozen=True)
class HostStretch:
    """A stretch of a pool, `offset_bytes` into it, which stays mapped while one is held."""

    pool: "HostPool"
    offset_bytes: int
    size_bytes: int

    @property
    def address(self) -> int:
        """Where in the process's memory it starts."""
        return self.pool.address + self.offset_bytes

    @property
    def device_address(self) -> int:
        """By which address a kernel reaches it."""
        return self.pool.device_address + self.offset_bytes

    def tensor(self) -> torch.Tensor:
        """A byte tensor over it."""
        return self.pool.tensor(self.offset_bytes, self.size_bytes)


class HostPool:
    """A slab of host memory, laid out by a plan, allocated before training.

    It is shared anonymous memory, so the operating system counts it apart from the process's own
    pages (`RssShmem`, not `RssAnon`): what a swap gives back really shows.

    Attributes:
        size_bytes: Its size.
        address: Where in the process's memory it starts; 0 if it is empty.
    """

    def __init__(self, size_bytes: int, node: int | None = None) -> None:
        """Allocates the slab and touches every page, so that no copy pays for it later.

        It lies on a NUMA node if one is given and that can be.

        Raises:
            SwapplanError: The host has not enough free memory, or may not take that much.
        """
        self.size_bytes = size_bytes
        self._slab: mmap.mmap | None = None
        self.address = 0
        if size_bytes == 0:
            return
        check_pools_fit(size_bytes)
        self._slab = mmap.mmap(-1, size_bytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._slab))
        if node is not None:
            prefer_node(self.address, size_bytes, node)
        ctypes.memset(self.address, 0, size_bytes)

    @property
    def device_address(self) -> int:
        """By which address kernels reach the slab."""
        return self.address

    def stretch(self, offset_bytes: int, size_bytes: int) -> HostStretch:
        """Returns a stretch of the slab; ValueError if it lies outside."""
        if offset_bytes < 0 or offset_bytes + size_bytes > self.size_bytes:
            raise ValueError(
                f"host bytes {offset_bytes} to {offset_bytes + size_bytes} lie outside the pool of "
                f"{self.size_bytes}"
            )
        return HostStretch(self, offset_bytes, size_bytes)

    def tensor(self, offset_bytes: int, size_bytes: int) -> torch.Tensor:
        """A byte tensor over a stretch of the slab."""
        assert self._slab is not None
        return torch.frombuffer(
            self._slab, dtype=torch.uint8, offset=offset_bytes, count=size_bytes
        )


class PinnedHostPool(HostPool):
    """A host pool that a CUDA device can copy from and to without a staging buffer.

    The slab is registered rather than allocated by torch, whose own pinned allocator rounds every
    request up to a power of two. It is unregistered when nothing holds the pool any more.
    """

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        """Allocates and registers the slab, near the device whose copies it is for.

        Raises:
            SwapplanError: The host has not enough free memory, or may not lock that much.
        """
        super().__init__(size_bytes, node_near(device))
        if size_bytes == 0:
            return
        cudart = torch.cuda.cudart()
        code = int(cudart.cudaHostRegister(self.address, size_bytes, 0))
        if code != 0:
            _forget_last_error(device)
            raise SwapplanError(
                f"The host pool of {size_text(size_bytes)} could not be pinned (CUDA error "
                f"{code}){locked_limit_text(size_bytes)}. Raise what limits it, or plan for less "
                "with 'plan solve --host-budget'."
            )
        weakref.finalize(self, cudart.cudaHostUnregister, self.address)

    @cached_property
    def device_address(self) -> int:
        """By which address kernels reach the slab; see [Note: addresses of a job].

        On all but a few systems it is the same. Only kernels need it, and what compiles them brings
        `cuda.bindings`, which knows.
        """
        from cuda.bindings import driver

        code, pointer = driver.cuMemHostGetDevicePointer(self.address, 0)
        if int(code) != 0:
            raise SwapplanError(
                f"Copy kernels cannot reach the host pool (CUDA error {int(code)}). Solve again "
                "with a link of the table, whose kernels were not measured."
            )
        return int(pointer)


class AllocatedHostPool(HostPool):
    """A host pool that any accelerator of torch can copy from and to: torch has pinned it."""

    def __init__(self, size_bytes: int) -> None:
        """Allocates the slab.

        Raises:
            SwapplanError: The host has not enough free memory, or may not lock that much.
        """
        super().__init__(0)
        self.size_bytes = size_bytes
        if size_bytes == 0:
            return
        check_pools_fit(size_bytes)
        try:
            # No op of the step that may be running.
            with unseen():
                self._bytes = torch.zeros(
                    size_bytes, dtype=torch.uint8, device="cpu", pin_memory=True
                )
        except RuntimeError as error:
            raise SwapplanError(
                f"The host pool of {size_text(size_bytes)} could not be pinned ({error})"
                f"{locked_limit_text(size_bytes)}. Raise what limits it, or plan for less with "
                "'plan solve --host-budget'."
            ) from error
        self.address = address_of(self._bytes.untyped_storage())

    def tensor(self, offset_bytes: int, size_bytes: int) -> torch.Tensor:
        """A byte tensor over a stretch of the slab."""
        return self._bytes[offset_bytes : offset_bytes + size_bytes]


MOST_AHEAD_BYTES = 64 << 20
"""A free list takes as much again as it has, and no more than this, beyond what is asked for."""
ALIGNED_BYTES = 512
"""Where stretches of one pool begin, as torch's own allocators have it."""


class HostFreeList:
    """Hands out host memory by size, and keeps what comes back for the next of that size.

    The sizes of a training step repeat, and fresh host memory is slow: every page is touched, and
    for a GPU pinned. So it is taken in pools for several storages.

    [Note: host memory outlives its copies] An accelerator gets to a copy long after the host has
    gone on. Whoever takes host memory anew issues its copy behind those that it was given back
    after, so it may change hands; but nothing orders the host's unmapping it. So the list keeps all
    that it has ever handed out, whatever becomes of that, and is itself kept until the lanes that
    copy have been waited for.
    """

    def __init__(self, new_pool: Callable[[int], HostPool] = HostPool) -> None:
        self._new_pool = new_pool
        self._pools: list[HostPool] = []
        # Of the last pool.
        self._used_bytes = 0
        self._spare: defaultdict[int, list[HostStretch]] = defaultdict(list)

    def take(self, size_bytes: int) -> HostStretch:
        """Returns host memory of a size.

        Raises:
            CapacityError: The host has none left.
        """
        if self._spare[size_bytes]:
            return self._spare[size_bytes].pop()
        start_bytes = rounded_bytes(self._used_bytes, ALIGNED_BYTES)
        if not self._pools or start_bytes + size_bytes > self._pools[-1].size_bytes:
            self._pools.append(self._pool_for(size_bytes))
            start_bytes = 0
        self._used_bytes = start_bytes + size_bytes
        return self._pools[-1].stretch(start_bytes, size_bytes)

    def _pool_for(self, size_bytes: int) -> HostPool:
        """Returns a new pool with room for what will be asked for next, too, if the host has it."""
        so_far_bytes = sum(pool.size_bytes for pool in self._pools)
        ahead_bytes = max(size_bytes, min(so_far_bytes, MOST_AHEAD_BYTES))
        with suppress(SwapplanError):
            return self._new_pool(ahead_bytes)
        try:
            return self._new_pool(size_bytes)
        except SwapplanError as error:
            raise CapacityError(
                f"The host has no {size_bytes} bytes left for what does not fit on the device. "
                "Record a smaller step, or on a host with more memory."
            ) from error

    def give(self, stretch: HostStretch) -> None:
        """Takes host memory back, once nothing in it is needed."""
        self._spare[stretch.size_bytes].append(stretch)


def _forget_last_error(device: torch.device) -> None:
    """Takes a failed call's error off the CUDA runtime, which the next launch would report."""
    with suppress(RuntimeError):
        torch.zeros(1, device=device)
