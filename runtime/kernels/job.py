"""One copy, and how many threads carry it."""

from dataclasses import dataclass

WARP_THREADS = 32
MAX_BLOCK_THREADS = 1024
WIDEST_ACCESS_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class CopyJob:
    """One copy between device and host memory, by address.

    [Note: addresses of a job] Both addresses must be valid on the device: device memory, or host
    memory pinned by `cudaHostAlloc`, which the device knows by the same address. Memory pinned by
    `cudaHostRegister` has a device address of its own (`cudaHostGetDevicePointer`). The two ends
    must not overlap. A kernel sees numbers, so no allocator knows that it uses the memory: whoever
    launches keeps both ends allocated until an event recorded after the kernel has passed.

    Attributes:
        source_address: The first byte to read.
        target_address: The first byte to write.
        size_bytes: Device bytes to carry.
    """

    source_address: int
    target_address: int
    size_bytes: int

    def __post_init__(self) -> None:
        if self.source_address <= 0 or self.target_address <= 0 or self.size_bytes <= 0:
            raise ValueError(f"no copy: {self}")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How many threads carry a copy, whatever its size.

    [Note: few blocks] A copy between device and host is bound by the link, and a few blocks keep
    that busy: bytes in flight = rate x round trip, so at 16 bytes x 4 accesses a thread, 1024
    threads hold 64 KiB, which at a nominal round trip of 1.3 us is about 50 GB/s. More blocks only
    take multiprocessors away from compute for as long as the copy lasts, so the grid is capped
    and its threads walk on.

    Attributes:
        blocks: Thread blocks.
        threads: Threads of a block: whole warps, at most 1024.
    """

    blocks: int
    threads: int

    def __post_init__(self) -> None:
        whole_warps = self.threads > 0 and self.threads % WARP_THREADS == 0
        if self.blocks < 1 or not whole_warps or self.threads > MAX_BLOCK_THREADS:
            raise ValueError(f"no grid a device can run: {self}")
