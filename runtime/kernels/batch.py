"""The table of a batch: one row of three words for each stretch that a block copies."""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.kernels.job import WIDEST_ACCESS_BYTES, CopyJob

WORD_BYTES = 8
ROW_WORDS = 3
ROW_BYTES = ROW_WORDS * WORD_BYTES


@dataclass(frozen=True, kw_only=True)
class BatchTable:
    """A written table, where the device can read it.

    Attributes:
        address: Its first row.
        rows: Their number.
    """

    address: int
    rows: int


def batch_words(jobs: Sequence[CopyJob], chunk_bytes: int) -> "array[int]":
    """Returns the rows for some copies: target address, source address, bytes, and so on.

    A block carries a row, so large copies are cut into chunks: else one block would still copy
    when all others have ended.

    Args:
        jobs: The copies. Their targets must not overlap.
        chunk_bytes: Most bytes of a row, a multiple of 16 so that chunks stay aligned.

    Raises:
        ValueError: The chunk size is no positive multiple of 16.
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
    """Writes the rows of a batch to host memory that the device can read.

    [Note: table of a batch] The kernel reads the table when it runs, not when it is launched. Do
    not write to the same place again until an event recorded after that launch has passed: keep
    as many tables as there are batches in flight.

    Args:
        words: What `batch_words` returned.
        address: Pinned host memory, aligned to 8 bytes.
        capacity_bytes: Its size.

    Raises:
        ValueError: The rows do not fit, or the address is not aligned.
    """
    size_bytes = len(words) * WORD_BYTES
    if size_bytes > capacity_bytes or address % WORD_BYTES:
        raise ValueError(
            f"a batch of {size_bytes} bytes does not fit {capacity_bytes} bytes at {address:#x}"
        )
    ctypes.memmove(address, words.buffer_info()[0], size_bytes)
    return BatchTable(address=address, rows=len(words) // ROW_WORDS)
