"""Kernels that copy stretches of bytes: one stretch, or many from a table."""

from numba import cuda

from runtime.kernels.access import (
    device,
    load_1,
    load_4,
    load_16,
    load_word,
    store_1,
    store_4,
    store_16,
)
from runtime.kernels.job import ROW_BYTES, WORD_BYTES


@device
def copy_vectors(thread: int, threads: int, target: int, source: int, vectors: int) -> None:
    """Copies this thread's share of a row of 16-byte vectors, four in flight at a time.

    vector       0   1   2 | 3   4   5 | 6   7   8 | 9  10  11 | 12  13  14 | 15
    thread 0     a   .   .   a   .   .   a   .   .   a   .   .    b   .   .    c
    thread 1     .   a   .   .   a   .   .   a   .   .   a   .    .   b   .    .
    thread 2     .   .   a   .   .   a   .   .   a   .   .   a    .   .   b    .

    Here three threads: `a` is loaded together, then stored; `b` and `c` come one by one. The
    threads of a warp touch neighbours, so their accesses join.
    """
    step = threads << 4
    vector = thread
    while vector + 3 * threads < vectors:
        here = source + (vector << 4)
        a_low, a_high = load_16(here)
        b_low, b_high = load_16(here + step)
        c_low, c_high = load_16(here + 2 * step)
        d_low, d_high = load_16(here + 3 * step)
        there = target + (vector << 4)
        store_16(there, a_low, a_high)
        store_16(there + step, b_low, b_high)
        store_16(there + 2 * step, c_low, c_high)
        store_16(there + 3 * step, d_low, d_high)
        vector += 4 * threads
    while vector < vectors:
        low, high = load_16(source + (vector << 4))
        store_16(target + (vector << 4), low, high)
        vector += threads


@device
def copy_words(thread: int, threads: int, target: int, source: int, words: int) -> None:
    """Copies this thread's share of a row of 4-byte words."""
    word = thread
    while word < words:
        store_4(target + (word << 2), load_4(source + (word << 2)))
        word += threads


@device
def copy_bytes(thread: int, threads: int, target: int, source: int, size_bytes: int) -> None:
    """Copies this thread's share of a row of bytes."""
    byte = thread
    while byte < size_bytes:
        store_1(target + byte, load_1(source + byte))
        byte += threads


@device
def copy_share(thread: int, threads: int, target: int, source: int, size_bytes: int) -> None:
    """Copies this thread's share of a stretch of bytes, of any length and alignment.

    target       ...5 6 7 8 ... F|0 1 2 ... F|0 1 2 ... F|0 1 2 3
    copied as       <--- head -->|<-vector-->|<-vector-->|< tail>
    source       ...5 6 7 8 ... F|0 1 2 ... F|0 1 2 ... F|0 1 2 3

    [Note: relative alignment] Vectors need both ends on a multiple of 16. Head and tail make it so
    where the ends lie alike; where they do not, no shift of the start helps, and the stretch
    goes in 4-byte words or, if they do not even agree in that, in bytes: exact, but many times
    slower. A device's allocator aligns storages; offsets of host memory must be multiples of 16.
    """
    if (target ^ source) & 15 == 0:
        head = min(-target & 15, size_bytes)
        vectors = (size_bytes - head) >> 4
        copy_vectors(thread, threads, target + head, source + head, vectors)
        done = head + (vectors << 4)
    elif (target ^ source) & 3 == 0:
        head = min(-target & 3, size_bytes)
        words = (size_bytes - head) >> 2
        copy_words(thread, threads, target + head, source + head, words)
        done = head + (words << 2)
    else:
        head = size_bytes
        done = size_bytes
    copy_bytes(thread, threads, target, source, head)
    copy_bytes(thread, threads, target + done, source + done, size_bytes - done)


@device
def copy_rows(block: int, blocks: int, thread: int, threads: int, table: int, rows: int) -> None:
    """Copies this block's rows of a batch, each with all threads of the block.

    row          0    1    2    3    4    5    6        a row: | target | source | bytes |
    block 0      x    .    .    x    .    .    x
    block 1      .    x    .    .    x    .    .
    block 2      .    .    x    .    .    x    .
    """
    row = block
    while row < rows:
        entry = table + row * ROW_BYTES
        target = load_word(entry)
        source = load_word(entry + WORD_BYTES)
        size_bytes = load_word(entry + 2 * WORD_BYTES)
        copy_share(thread, threads, target, source, size_bytes)
        row += blocks


def copy_kernel(target: int, source: int, size_bytes: int) -> None:
    """Copies one stretch with all threads of the grid. See `copy_share`."""
    copy_share(cuda.grid(1), cuda.gridsize(1), target, source, size_bytes)


def batch_kernel(table: int, rows: int) -> None:
    """Copies many stretches, a row of the table to a block. See `copy_rows`."""
    copy_rows(cuda.blockIdx.x, cuda.gridDim.x, cuda.threadIdx.x, cuda.blockDim.x, table, rows)
