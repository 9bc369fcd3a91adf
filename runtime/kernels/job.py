"""What a kernel is handed: the addresses of one copy or of a table of copies, and its threads."""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

WARP_THREADS = 32
MAX_BLOCK_THREADS = 1024
WIDEST_ACCESS_BYTES = 16
WORD_BYTES = 8
ROW_WORDS = 3
ROW_BYTES = ROW_WORDS * WORD_BYTES


class Kernel(Enum):
    """A kernel that can be launched; see `runtime.kernels.sources`."""

    COPY = "copy"
    BATCH = "batch"
    PACK = "pack"
    UNPACK = "unpack"


@dataclass(frozen=True, kw_only=True)
class CopyJob:
    """One copy between device and host memory, by address.

    [Note: addresses of a job] Both addresses must be valid on the device: device memory, or host
    memory pinned by `cudaHostAlloc`, which the device knows by the same address. Memory pinned by
    `cudaHostRegister` has a device address of its own (`cudaHostGetDevicePointer`). The two ends
    must not overlap. A kernel sees numbers, so no allocator knows that it uses the memory: the
    caller keeps both ends allocated until an event recorded after the kernel has passed. The size
    is that of the device's end.
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
    and its threads walk on. The threads of a block are whole warps, at most 1024.
    """

    blocks: int
    threads: int

    def __post_init__(self) -> None:
        whole_warps = self.threads > 0 and self.threads % WARP_THREADS == 0
        if self.blocks < 1 or not whole_warps or self.threads > MAX_BLOCK_THREADS:
            raise ValueError(f"no grid a device can run: {self}")


@dataclass(frozen=True, kw_only=True)
class BatchTable:
    """A written table of copies, where the device can read it.

    A row is the target's address, the source's, and bytes, a word each. A block carries a row.
    """

    address: int
    rows: int


def batch_words(jobs: Sequence[CopyJob], chunk_bytes: int) -> "array[int]":
    """Returns the rows of a table, word by word.

    Large copies are cut into chunks: else one block would still copy when all others have ended.

    Args:
        jobs: The copies. Their targets must not overlap.
        chunk_bytes: Most bytes of a row, a positive multiple of 16 so that chunks stay aligned.

    Raises:
        ValueError: The chunk size is none.
    """
    if chunk_bytes <= 0 or chunk_bytes % WIDEST_ACCESS_BYTES:
        raise ValueError(
            f"chunks of {chunk_bytes} bytes, must be a multiple of {WIDEST_ACCESS_BYTES}"
        )
    words = array("q")
    for job in jobs:
        for start in range(0, job.size_bytes, chunk_bytes):
            words.append(job.target_address + start)
            words.append(job.source_address + start)
            words.append(min(chunk_bytes, job.size_bytes - start))
    return words


def write_batch(words: "array[int]", address: int, capacity_bytes: int) -> BatchTable:
    """Writes the rows of a table to host memory that the device can read.

    [Note: table of a batch] The kernel reads the table when it runs, not when it is launched. Do
    not write to the same place again until an event recorded after that launch has passed: keep
    as many tables as there are batches in flight.

    Raises:
        ValueError: The rows do not fit the capacity, or the address is no multiple of 8.
    """
    size_bytes = len(words) * WORD_BYTES
    if size_bytes > capacity_bytes or address % WORD_BYTES:
        raise ValueError(
            f"a batch of {size_bytes} bytes does not fit {capacity_bytes} bytes at {address:#x}"
        )
    ctypes.memmove(address, words.buffer_info()[0], size_bytes)
    return BatchTable(address=address, rows=len(words) // ROW_WORDS)
