"""Carries copies by the kernels' source as the processor executes it: on the emulated device."""

import ctypes
from array import array
from typing import TYPE_CHECKING, Any

from profiles.schema.errors import SwapplanError
from runtime.kernels.batch import ROW_WORDS, BatchTable
from runtime.kernels.carrier import KernelCarrier
from runtime.kernels.compile import INSTALL
from runtime.kernels.job import CopyJob, Grid

if TYPE_CHECKING:
    from types import ModuleType

WARM_UP_BYTES = 64
ONE_THREAD = 1
"""A lane is one thread: it walks alone over what a grid would share."""


def host_carrier() -> KernelCarrier:
    """Compiles the kernels' source for the processor, once, and returns what carries by it.

    Raises:
        SwapplanError: numba is missing.
    """
    try:
        from runtime.kernels import host_execution
    except ImportError as error:
        raise SwapplanError(
            f"Copy kernels on 'cpu' need numba-cuda, found none ({error}). {INSTALL}, or solve "
            "with a link whose kernels were not measured."
        ) from error
    launcher = _HostLauncher(host_execution)
    launcher.warm_up()
    return KernelCarrier(launcher, _HostTables(), _HostFlag())


class _HostLauncher:
    """Executes kernels at once, on the calling thread."""

    def __init__(self, execution: "ModuleType") -> None:
        self._run = execution

    def warm_up(self) -> None:
        """Has everything compiled."""
        memory = (ctypes.c_char * (4 * WARM_UP_BYTES))()
        start = ctypes.addressof(memory)
        there = start + 2 * WARM_UP_BYTES
        job = CopyJob(source_address=start, target_address=there, size_bytes=WARM_UP_BYTES)
        row = array("q", [there, start, WARM_UP_BYTES])
        grid = Grid(blocks=1, threads=32)
        self.copy(job, grid, 0)
        self.copy_batch(BatchTable(address=row.buffer_info()[0], rows=1), grid, 0)
        self.pack(job, start + WARM_UP_BYTES, grid, 0)
        self.unpack(job, grid, 0)

    def copy(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Copies one stretch."""
        self._run.copy(ONE_THREAD, job.target_address, job.source_address, job.size_bytes)

    def copy_batch(self, table: BatchTable, grid: Grid, stream_handle: int) -> None:
        """Copies the rows of a table."""
        self._run.batch(1, ONE_THREAD, table.address, table.rows)

    def pack(self, job: CopyJob, stray_flag_address: int, grid: Grid, stream_handle: int) -> None:
        """Packs bools into bits."""
        ends = job.target_address, job.source_address
        self._run.pack(ONE_THREAD, *ends, job.size_bytes, stray_flag_address)

    def unpack(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Unpacks bits into bools."""
        self._run.unpack(ONE_THREAD, job.target_address, job.source_address, job.size_bytes)


class _HostTables:
    """The table of the batch that is being carried: it is over when the call returns."""

    def __init__(self) -> None:
        self._words: array[int] = array("q")

    def write(self, words: "array[int]") -> BatchTable:
        """Keeps the words where they are."""
        self._words = words
        return BatchTable(address=words.buffer_info()[0], rows=len(words) // ROW_WORDS)

    def launched(self, stream: Any) -> None:
        """It is over."""


class _HostFlag:
    """A word of this process."""

    def __init__(self) -> None:
        self._word = ctypes.c_int64(0)
        self.address = ctypes.addressof(self._word)

    def is_set(self) -> bool:
        """Whether a byte was packed that is no bool."""
        return self._word.value != 0
