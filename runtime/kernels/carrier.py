"""Carries copies by kernel, whichever execution that is: by CUDA, or by the processor.

Nothing here imports numba, which compiles the kernels and is not needed where a plan has none.

[Note: device of a launch] numba launches in the calling thread's current CUDA context, and takes
device 0 where a thread has none. torch must be initialised first, and a thread of autograd or of
one's own must have made the right device current (`torch.cuda.set_device`). Never call
`cuda.close()` or `Device.reset()`: that destroys the context torch lives in.

[Note: order of a launch] A kernel is ordered by its stream alone: numba waits for nothing, and
torch's allocators do not see the addresses a kernel is given. So the caller has the stream wait
for whatever filled the source and freed the target, and records an event after the launch. What
reads the target, or frees either end, waits for that event. Bytes a kernel wrote to pinned host
memory may be read by the host, or by a copy on another stream, once it has passed.
"""

import ctypes
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from profiles.schema.link import CopyMethod
from runtime.kernels.job import BatchTable, CopyJob, Grid, Kernel, batch_words

CHUNK_BYTES = 64 << 10
"""Most bytes of a batch's row."""
GRID = Grid(blocks=32, threads=1024)
"""See [Note: few blocks]: what saturates a PCIe 5 link, and no more."""
INSTALL = "Install it with: pip install 'swapplan[cuda]'"

Launch = Callable[..., None]
"""Launches one kernel with a given grid on a given stream."""


class KernelLauncher:
    """Launches the copy kernels, at the cost of a dictionary look-up and a driver call.

    Nothing is compiled or loaded at a launch, so it can be captured in a CUDA graph; the graph
    keeps the addresses. A stream is given by the handle that its driver knows it by.
    """

    def __init__(self, configure: Callable[[Kernel, Grid, int], Launch]) -> None:
        self._configure = configure
        self._configured: dict[tuple[Kernel, Grid, int], Launch] = {}
        self._configuring = threading.Lock()

    def copy(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of one stretch of bytes, of any length and alignment."""
        launch = self._launch(Kernel.COPY, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes)

    def copy_batch(self, table: BatchTable, grid: Grid, stream_handle: int) -> None:
        """Issues the copies of a table, which must stay as it is until they have ended."""
        launch = self._launch(Kernel.BATCH, grid, stream_handle)
        launch(table.address, table.rows)

    def pack(self, job: CopyJob, stray_flag_address: int, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of `size_bytes` bools into bits, an eighth of that, rounded up.

        `stray_flag_address` has 8 aligned bytes that turn from 0 to 1 if some byte was no bool.
        """
        launch = self._launch(Kernel.PACK, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes, stray_flag_address)

    def unpack(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of bits into `size_bytes` bools; the opposite of `pack`."""
        launch = self._launch(Kernel.UNPACK, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes)

    def _launch(self, kernel: Kernel, grid: Grid, stream_handle: int) -> Launch:
        key = (kernel, grid, stream_handle)
        launch = self._configured.get(key)
        if launch is None:
            with self._configuring:
                if key not in self._configured:
                    self._configured[key] = self._configure(*key)
                launch = self._configured[key]
        return launch


class Tables(Protocol):
    """Memory for the tables of batches, which must stay as they are until their launch is over."""

    def write(self, words: "array[int]") -> BatchTable:
        """Puts a table where a kernel can read it."""

    def launched(self, stream: Any) -> None:
        """The table written last has been handed to a launch on a stream."""


class KernelCarrier:
    """One lane's copies by kernel."""

    def __init__(self, launcher: KernelLauncher, tables: Tables, *, pinned: bool) -> None:
        """Takes what launches, memory for tables, and whether kernels need pinned memory."""
        self._launcher = launcher
        self._tables = tables
        # 8 bytes that turn from 0 to 1: see [Note: stray bools].
        self._stray = torch.zeros(1, dtype=torch.int64, device="cpu", pin_memory=pinned)
        self._stray_address = self._stray.data_ptr()

    @property
    def saw_stray(self) -> bool:
        """Whether a storage was packed that holds anything but bools, in any copy that is over."""
        return ctypes.c_int64.from_address(self._stray_address).value != 0

    def carry(
        self, engine: CopyMethod, jobs: Sequence[CopyJob], *, to_host: bool, stream: Any = None
    ) -> None:
        """Issues copies in one direction; only the batch kernel takes more than one.

        They go on a torch stream; where the processor executes there is none.

        Raises:
            ValueError: The engine is none of these kernels.
        """
        handle = 0 if stream is None else stream.native_handle
        match engine:
            case CopyMethod.BATCH_KERNEL:
                table = self._tables.write(batch_words(jobs, CHUNK_BYTES))
                self._launcher.copy_batch(table, GRID, handle)
                self._tables.launched(stream)
            case CopyMethod.VECTOR_KERNEL:
                self._launcher.copy(jobs[0], GRID, handle)
            case CopyMethod.BITPACK_KERNEL if to_host:
                self._launcher.pack(jobs[0], self._stray_address, GRID, handle)
            case CopyMethod.BITPACK_KERNEL:
                self._launcher.unpack(jobs[0], GRID, handle)
            case _:
                raise ValueError(f"{engine.value} is no kernel")
