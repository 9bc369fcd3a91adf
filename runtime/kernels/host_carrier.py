"""Carries copies by the kernels' source as the processor executes it, on the emulated device.

A kernel itself only asks the device which thread it is, so what runs here are the functions it
hands that to: thread after thread, block after block. They run without the interpreter lock: a lane
copies while compute computes.
"""

import ctypes
from array import array
from functools import partial
from typing import Any

import numba

from runtime.kernels.bitpacked import pack_share, unpack_share
from runtime.kernels.carrier import KernelCarrier, KernelLauncher
from runtime.kernels.contiguous import copy_rows, copy_share
from runtime.kernels.job import ROW_WORDS, BatchTable, CopyJob, Grid, Kernel
from runtime.kernels.sources import relinked

WARM_UP_BYTES = 64
ONE_THREAD = 1
"""A lane is one thread: it walks alone over what a grid would share."""

_COMPILED: dict[Any, Any] = {}


def _one_by_one(share: Any) -> Any:
    """Runs each thread's share of a kernel, one thread after the other."""
    compiled = relinked(share, numba.njit, _COMPILED)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def run(first: int, threads: int, arguments: Any) -> None:
        for thread in range(first, threads):
            compiled(thread, threads, *arguments)

    return run


_COPY, _PACK, _UNPACK = map(_one_by_one, (copy_share, pack_share, unpack_share))
_copy_rows = relinked(copy_rows, numba.njit, _COMPILED)


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _batch(blocks: int, threads: int, table: int, rows: int) -> None:
    for block in range(blocks):
        for thread in range(threads):
            _copy_rows(block, blocks, thread, threads, table, rows)


def copy(threads: int, target: int, source: int, size_bytes: int, *, first: int = 0) -> None:
    """Copies as a grid of so many threads does; without those before `first`."""
    _COPY(first, threads, (target, source, size_bytes))


def batch(blocks: int, threads: int, table: int, rows: int) -> None:
    """Copies the rows of a table, as so many blocks of so many threads do."""
    _batch(blocks, threads, table, rows)


def pack(threads: int, target: int, source: int, bools: int, stray_flag: int) -> None:
    """Packs bools into bits."""
    _PACK(0, threads, (target, source, bools, stray_flag))


def unpack(threads: int, target: int, source: int, bools: int) -> None:
    """Unpacks bits into bools."""
    _UNPACK(0, threads, (target, source, bools))


_RUN = {
    Kernel.COPY: partial(copy, ONE_THREAD),
    Kernel.BATCH: partial(batch, 1, ONE_THREAD),
    Kernel.PACK: partial(pack, ONE_THREAD),
    Kernel.UNPACK: partial(unpack, ONE_THREAD),
}


def host_carrier() -> KernelCarrier:
    """Compiles the kernels' source for the processor, once, and returns what carries by it."""
    launcher = KernelLauncher(lambda kernel, grid, stream_handle: _RUN[kernel])
    _warm_up(launcher)
    return KernelCarrier(launcher, _HostTables(), pinned=False)


def _warm_up(launcher: KernelLauncher) -> None:
    """Has everything compiled, so that no copy of a step is late."""
    memory = (ctypes.c_char * (4 * WARM_UP_BYTES))()
    start = ctypes.addressof(memory)
    there = start + 2 * WARM_UP_BYTES
    job = CopyJob(source_address=start, target_address=there, size_bytes=WARM_UP_BYTES)
    row = array("q", [there, start, WARM_UP_BYTES])
    grid = Grid(blocks=1, threads=32)
    launcher.copy(job, grid, 0)
    launcher.copy_batch(BatchTable(address=row.buffer_info()[0], rows=1), grid, 0)
    launcher.pack(job, start + WARM_UP_BYTES, grid, 0)
    launcher.unpack(job, grid, 0)


class _HostTables:
    """The table of the batch that is being carried: it is over when the call returns."""

    def __init__(self) -> None:
        self._words: array[int] = array("q")

    def write(self, words: "array[int]") -> BatchTable:
        self._words = words
        return BatchTable(address=words.buffer_info()[0], rows=len(words) // ROW_WORDS)

    def launched(self, stream: Any) -> None:
        """It is over."""
