"""Launches the copy kernels on one device, at the cost of a dictionary look-up and a driver call.

[Note: device of a launch] numba launches in the calling thread's current CUDA context, and takes
device 0 where a thread has none. torch must be initialised first, and a thread of autograd or of
one's own must have made the right device current (`torch.cuda.set_device`). Never call
`cuda.close()` or `Device.reset()`: that destroys the context torch lives in.

[Note: order of a launch] A kernel is ordered by its stream alone: numba waits for nothing, and
torch's allocators do not see the addresses a kernel is given. So the caller has the stream wait
for whatever filled the source and freed the target, and records an event after the launch that
whoever reads the target, or frees either end, waits for. Bytes a kernel wrote to pinned host
memory may be read by the host, or by a copy on another stream, once that event has passed.
"""

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from numba.core.errors import NumbaPerformanceWarning

from runtime.kernels.batch import BatchTable
from runtime.kernels.job import CopyJob, Grid
from runtime.kernels.kernel import Kernel


class KernelLauncher:
    """Compiled kernels, and how each was launched before.

    Nothing is compiled or loaded at a launch, so it can be captured in a CUDA graph; the graph
    keeps the addresses.

    Attributes:
        compiled: What numba made of each kernel.
    """

    def __init__(self, compiled: Mapping[Kernel, Any], wrap_stream: Callable[[int], Any]) -> None:
        """Takes what `runtime.kernels.compile.compile_kernels` makes."""
        self.compiled = compiled
        self._wrap_stream = wrap_stream
        self._configured: dict[tuple[Kernel, Grid, int], Callable[..., None]] = {}
        self._configuring = threading.Lock()

    def copy(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of one stretch of bytes, of any length and alignment.

        Args:
            job: What to copy.
            grid: With how many threads.
            stream_handle: The stream, as `torch.cuda.Stream.cuda_stream` gives it.
        """
        launch = self._launch(Kernel.COPY, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes)

    def copy_batch(self, table: BatchTable, grid: Grid, stream_handle: int) -> None:
        """Issues the copies of a table, which must stay as it is until they have ended."""
        launch = self._launch(Kernel.BATCH, grid, stream_handle)
        launch(table.address, table.rows)

    def pack(self, job: CopyJob, stray_flag_address: int, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of bools into bits.

        Args:
            job: From `size_bytes` bools to an eighth of that, rounded up.
            stray_flag_address: 8 aligned bytes that turn from 0 to 1 if some byte was no bool.
            grid: With how many threads.
            stream_handle: The stream.
        """
        launch = self._launch(Kernel.PACK, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes, stray_flag_address)

    def unpack(self, job: CopyJob, grid: Grid, stream_handle: int) -> None:
        """Issues the copy of bits into `size_bytes` bools; the opposite of `pack`."""
        launch = self._launch(Kernel.UNPACK, grid, stream_handle)
        launch(job.target_address, job.source_address, job.size_bytes)

    def _launch(self, kernel: Kernel, grid: Grid, stream_handle: int) -> Callable[..., None]:
        key = (kernel, grid, stream_handle)
        return self._configured.get(key) or self._configure(key)

    def _configure(self, key: tuple[Kernel, Grid, int]) -> Callable[..., None]:
        kernel, grid, stream_handle = key
        with self._configuring, warnings.catch_warnings():
            # A grid of few blocks is what we want: see [Note: few blocks].
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            if key not in self._configured:
                stream = self._wrap_stream(stream_handle)
                launch = self.compiled[kernel][grid.blocks, grid.threads, stream]
                self._configured[key] = launch
        return self._configured[key]
