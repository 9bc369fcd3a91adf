"""The kernels' source, executed by the CPU: thread after thread, block after block.

A kernel itself only asks the device which thread it is, so what runs here are the functions it
hands that to. They run without the interpreter lock: a lane copies while compute computes.
"""

from typing import Any

import numba

from runtime.kernels.bitpacked import pack_share, unpack_share
from runtime.kernels.contiguous import copy_rows, copy_share
from runtime.kernels.relink import relinked

_COMPILED: dict[Any, Any] = {}


def _one_by_one(share: Any) -> Any:
    compiled = relinked(share, numba.njit, _COMPILED)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def run(first: int, threads: int, arguments: Any) -> None:
        for thread in range(first, threads):
            compiled(thread, threads, *arguments)

    return run


_COPY, _PACK, _UNPACK = map(_one_by_one, (copy_share, pack_share, unpack_share))


def copy(threads: int, target: int, source: int, size_bytes: int, *, first: int = 0) -> None:
    """Copies as a grid of so many threads does; without those before `first`."""
    _COPY(first, threads, (target, source, size_bytes))


def pack(threads: int, target: int, source: int, bools: int, stray_flag: int) -> None:
    """Packs bools into bits."""
    _PACK(0, threads, (target, source, bools, stray_flag))


def unpack(threads: int, target: int, source: int, bools: int) -> None:
    """Unpacks bits into bools."""
    _UNPACK(0, threads, (target, source, bools))


def batch(blocks: int, threads: int, table: int, rows: int) -> None:
    """Copies the rows of a table, as so many blocks of so many threads do."""
    _batch(blocks, threads, table, rows)


_copy_rows = relinked(copy_rows, numba.njit, _COMPILED)


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _batch(blocks: int, threads: int, table: int, rows: int) -> None:
    for block in range(blocks):
        for thread in range(threads):
            _copy_rows(block, blocks, thread, threads, table, rows)
