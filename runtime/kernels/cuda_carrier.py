"""Carries copies by kernels on a CUDA device."""

from array import array
from collections import deque
from typing import Any

import torch

from runtime.kernels.batch import WORD_BYTES, BatchTable, write_batch
from runtime.kernels.carrier import KernelCarrier
from runtime.kernels.compile import compile_kernels

LEAST_WORDS = 512
"""Tables are at least this large, so that one fits most batches."""


def cuda_carrier(device: torch.device) -> KernelCarrier:
    """Compiles the kernels for a device and returns what carries by them.

    Raises:
        SwapplanError: numba-cuda is missing, or finds no device.
    """
    torch.cuda.init()
    with torch.cuda.device(device):
        return KernelCarrier(compile_kernels(), PinnedTables(), _PinnedFlag())


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
        return torch.empty(words, dtype=torch.int64, pin_memory=True)

    def _new_event(self) -> Any:
        return torch.cuda.Event()


class _PinnedFlag:
    """A word in pinned memory."""

    def __init__(self) -> None:
        self._word = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self.address = self._word.data_ptr()

    def is_set(self) -> bool:
        """Whether a byte was packed that is no bool, as far as the device has got."""
        return int(self._word) != 0
