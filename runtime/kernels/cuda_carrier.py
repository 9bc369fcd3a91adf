"""Carries copies by kernels on a CUDA device, compiled for it before training."""

import warnings
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from profiles.schema.errors import SwapplanError
from profiles.schema.profile import CUDA
from runtime.kernels.carrier import INSTALL, KernelCarrier, KernelLauncher, Launch
from runtime.kernels.job import MAX_BLOCK_THREADS, WORD_BYTES, BatchTable, Grid, Kernel, write_batch

LAUNCH_BOUNDS = (MAX_BLOCK_THREADS, 1)
"""Most threads of a block, and how many such blocks a multiprocessor must hold. One is enough, as
a copy has few blocks; left to itself the assembler makes room for two, and spills for it."""
LEAST_WORDS = 512
"""Tables are at least this large, so that one fits most batches."""


def cuda_carrier(device: torch.device) -> KernelCarrier:
    """Compiles the kernels for a device and returns what carries by them; see `compile_kernels`."""
    torch.cuda.init()
    with torch.cuda.device(device):
        return KernelCarrier(cuda_launcher(), PinnedTables(), pinned=True)


def cuda_launcher() -> KernelLauncher:
    """Compiles the kernels for the current device and returns what launches them."""
    compiled = compile_kernels()
    from numba import cuda

    return launcher_of(compiled, cuda.external_stream)


def launcher_of(
    compiled: Mapping[Kernel, Any], wrap_stream: Callable[[int], Any]
) -> KernelLauncher:
    """Returns what launches kernels that numba has compiled, on streams that it knows by handle."""
    from numba.core.errors import NumbaPerformanceWarning

    def configure(kernel: Kernel, grid: Grid, stream_handle: int) -> Launch:
        with warnings.catch_warnings():
            # A grid of few blocks is what we want: see [Note: few blocks].
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            stream = wrap_stream(stream_handle)
            launch: Launch = compiled[kernel][grid.blocks, grid.threads, stream]
            return launch

    return KernelLauncher(configure)


def compile_kernels() -> Mapping[Kernel, Any]:
    """Compiles and loads every kernel, so that no launch does (and no rank lags by seconds).

    torch must have made the device current: see [Note: device of a launch].

    Raises:
        SwapplanError: numba-cuda is missing, or there is no device it can compile for.
    """
    try:
        from numba import cuda
    except ImportError as error:
        raise SwapplanError(
            f"The copy kernels need numba-cuda, found no numba. {INSTALL}"
        ) from error
    # Without numba-cuda, numba answers with its own older CUDA part, which is no longer developed.
    if getattr(cuda, "implementation", None) != "NVIDIA":
        raise SwapplanError(f"The copy kernels need numba-cuda, found numba alone. {INSTALL}")
    if not cuda.is_available():
        raise SwapplanError(
            "The copy kernels need a CUDA device, numba-cuda finds none. "
            "Use the copy engine, or the emulated accelerator."
        )
    from runtime.kernels.sources import SOURCES

    return {
        kernel: cuda.jit(source.signature, launch_bounds=LAUNCH_BOUNDS)(source.function)
        for kernel, source in SOURCES.items()
    }


class PinnedTables:
    """Tables in pinned memory, each used again when the launch it was written for is over.

    The host may be more than a step ahead of the device, so a table cannot belong to a place of
    the plan: see [Note: table of a batch].
    """

    def __init__(self) -> None:
        self._in_flight: deque[tuple[Any, torch.Tensor]] = deque()
        self._written: torch.Tensor | None = None

    def write(self, words: "array[int]") -> BatchTable:
        """Writes into a table that no launch reads any more."""
        self._written = self._free_table(len(words))
        return write_batch(words, self._written.data_ptr(), self._written.nbytes)

    def launched(self, stream: Any) -> None:
        """Keeps the table until the stream has got past the launch."""
        assert self._written is not None
        event = self._new_event()
        event.record(stream)
        self._in_flight.append((event, self._written))
        self._written = None

    def _free_table(self, words: int) -> torch.Tensor:
        if self._in_flight and self._in_flight[0][0].query():
            _, table = self._in_flight.popleft()
            if table.nbytes >= words * WORD_BYTES:
                return table
        return self._new_table(max(LEAST_WORDS, words))

    def _new_table(self, words: int) -> torch.Tensor:
        return torch.empty(words, dtype=torch.int64, device="cpu", pin_memory=True)

    def _new_event(self) -> Any:
        # One of any kind: the lanes' streams are of any, too.
        return torch.Event(device=CUDA)
