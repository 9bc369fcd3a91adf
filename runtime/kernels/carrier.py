"""Carries copies by kernel, whichever execution that is: by CUDA, or by the processor."""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from profiles.schema.link import CopyMethod
from runtime.kernels.batch import BatchTable, batch_words
from runtime.kernels.job import CopyJob, Grid

CHUNK_BYTES = 64 << 10
"""Most bytes of a batch's row."""
GRID = Grid(blocks=32, threads=1024)
"""See [Note: few blocks]: what saturates a PCIe 5 link, and no more."""


class Ends(NamedTuple):
    """Both ends of one copy, as addresses that whoever executes the kernel may use.

    Attributes:
        device_address: The storage's first byte.
        host_address: The first byte in the host pool.
        size_bytes: Device bytes.
    """

    device_address: int
    host_address: int
    size_bytes: int


class Launcher(Protocol):
    """What launches kernels; see `runtime.kernels.launcher.KernelLauncher`."""

    def copy(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of one stretch of bytes."""

    def copy_batch(self, table: BatchTable, grid: Grid, stream_handle: int) -> None:
        """Issues the copies of a table."""

    def pack(self, job: CopyJob, stray_flag_address: int, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of bools into bits."""

    def unpack(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of bits into bools."""


class Tables(Protocol):
    """Memory for the tables of batches, which must stay as they are until their launch is over."""

    def write(self, words: "array[int]") -> BatchTable:
        """Puts a table where a kernel can read it."""

    def launched(self, stream: Any) -> None:
        """The table written last has been handed to a launch on a stream."""


class StrayFlag(Protocol):
    """Tells whether a byte was packed that is no bool; see [Note: stray bools].

    Attributes:
        address: 8 bytes that turn from 0 to 1, where a kernel can write them.
    """

    address: int

    def is_set(self) -> bool:
        """Whether one was, in any copy that is over."""


class KernelCarrier:
    """One lane's copies by kernel."""

    def __init__(self, launcher: Launcher, tables: Tables, stray: StrayFlag) -> None:
        self._launcher = launcher
        self._tables = tables
        self._stray = stray

    @property
    def saw_stray(self) -> bool:
        """Whether a storage was packed that holds anything but bools."""
        return self._stray.is_set()

    def carry(
        self, engine: CopyMethod, copies: Sequence[Ends], *, to_host: bool, stream: Any = None
    ) -> None:
        """Issues copies in one direction.

        Args:
            engine: Which kernel; only the batch kernel takes more than one copy.
            copies: What to copy.
            to_host: Which way.
            stream: A torch stream; None where the processor executes.

        Raises:
            ValueError: The engine is none of these kernels.
        """
        handle = 0 if stream is None else stream.cuda_stream
        jobs = [_job(ends, to_host=to_host) for ends in copies]
        match engine:
            case CopyMethod.BATCH_KERNEL:
                table = self._tables.write(batch_words(jobs, CHUNK_BYTES))
                self._launcher.copy_batch(table, GRID, handle)
                self._tables.launched(stream)
            case CopyMethod.VECTOR_KERNEL:
                self._launcher.copy(jobs[0], GRID, handle)
            case CopyMethod.BITPACK_KERNEL if to_host:
                self._launcher.pack(jobs[0], self._stray.address, GRID, handle)
            case CopyMethod.BITPACK_KERNEL:
                self._launcher.unpack(jobs[0], GRID, handle)
            case _:
                raise ValueError(f"{engine.value} is no kernel")


def _job(ends: Ends, *, to_host: bool) -> CopyJob:
    device, host = ends.device_address, ends.host_address
    return CopyJob(
        source_address=device if to_host else host,
        target_address=host if to_host else device,
        size_bytes=ends.size_bytes,
    )
