"""Carries copies by kernel, whichever execution that is: by CUDA, or by the processor.

Nothing here imports numba, which compiles the kernels. Where a plan has none, it is not needed.

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

import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

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
    keeps the addresses. A stream is given as `torch.cuda.Stream.cuda_stream` has it.
    """

    def __init__(self, configure: Callable[[Kernel, Grid, int], Launch]) -> None:
        """Takes what makes the launch of a kernel with a grid on a stream."""
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

    def _launch(self, kernel: Kernel, grid: Grid, stream_handle: int) -> Launch:
        key = (kernel, grid, stream_handle)
        launch = self._configured.get(key)
        if launch is None:
            with self._configuring:
                if key not in self._configured:
                    self._configured[key] = self._configure(*key)
                launch = self._configured[key]
        return launch


class Ends(NamedTuple):
    """Both ends of one copy, as addresses that a kernel may use.

    Attributes:
        device_address: The storage's first byte.
        host_address: The first byte in the host pool.
        size_bytes: Device bytes.
    """

    device_address: int
    host_address: int
    size_bytes: int

    def job(self, *, to_host: bool) -> CopyJob:
        """The copy in one direction."""
        device, host = self.device_address, self.host_address
        return CopyJob(
            source_address=device if to_host else host,
            target_address=host if to_host else device,
            size_bytes=self.size_bytes,
        )


class Tables(Protocol):
    """Memory for the tables of batches, which must stay as they are until their launch is over."""

    def write(self, words: "array[int]") -> BatchTable:
        """Puts a table where a kernel can read it."""

    def launched(self, stream: Any) -> None:
        """The table written last has been handed to a launch on a stream."""


class StrayFlag(Protocol):
    """Says whether a byte was packed that is no bool; see [Note: stray bools].

    Attributes:
        address: 8 bytes that turn from 0 to 1, where a kernel can write them.
    """

    address: int

    def is_set(self) -> bool:
        """Whether one was, in any copy that is over."""


class KernelCarrier:
    """One lane's copies by kernel."""

    def __init__(self, launcher: KernelLauncher, tables: Tables, stray: StrayFlag) -> None:
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
        jobs = [ends.job(to_host=to_host) for ends in copies]
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
