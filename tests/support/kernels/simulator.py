"""The kernels' source in the CUDA simulator, with every access to memory checked.

Works only in a process that was started with `NUMBA_ENABLE_CUDASIM=1`. The simulator runs kernels
as plain Python, a thread of the system for each CUDA thread of a block, block after block. It
cannot run intrinsics, so loads and stores are these: each must be aligned, lie inside a buffer
the test gave out, and every byte is counted that is written.
"""

import ctypes
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import cuda

from runtime.kernels.job import Kernel
from runtime.kernels.sources import SOURCES, relinked
from tests.support.kernels.buffers import Buffer


class BadAccessError(Exception):
    """A kernel touched memory it must not touch, or not like this."""


class Memory:
    """The memory a kernel may touch, and how often it wrote each byte.

    Loads and stores from several threads are counted right, as a NumPy call on a few bytes is not
    interrupted.
    """

    def __init__(self) -> None:
        self._readable: list[Buffer] = []
        self._writable: list[tuple[Buffer, npt.NDArray[np.int64]]] = []

    def read(self, buffer: Buffer) -> Buffer:
        """Lets kernels read a buffer."""
        self._readable.append(buffer)
        return buffer

    def write(self, buffer: Buffer) -> Buffer:
        """Lets kernels write a buffer."""
        self._writable.append((buffer, np.zeros(buffer.size_bytes, dtype=np.int64)))
        return buffer

    def times_written(self, buffer: Buffer) -> npt.NDArray[np.int64]:
        """How often each byte of a buffer was written."""
        return next(times for written, times in self._writable if written is buffer)

    def check_load(self, address: int, width: int) -> None:
        check_alignment("load", address, width)
        for buffer in self._readable:
            if buffer.address <= address <= buffer.address + buffer.size_bytes - width:
                return
        raise BadAccessError(f"load of {width} bytes outside every buffer")

    def count_store(self, address: int, width: int) -> None:
        check_alignment("store", address, width)
        for buffer, times in self._writable:
            start = address - buffer.address
            if 0 <= start <= buffer.size_bytes - width:
                times[start : start + width] += 1
                return
        raise BadAccessError(f"store of {width} bytes outside every buffer")

    def accesses(self) -> MappingProxyType[str, Any]:
        """Checked loads and stores, under the names kernels use."""
        loads = {f"load_{width}": self._load_of(width) for width in (1, 4)}
        stores = {f"store_{width}": self._store_of(width) for width in (1, 4, 8)}
        return MappingProxyType(
            {
                **loads,
                **stores,
                "load_16": self._load_16,
                "store_16": self._store_16,
                "load_word": self._load_word,
            }
        )

    def _load_of(self, width: int) -> Any:
        def load(address: int) -> np.uint64:
            self.check_load(address, width)
            return np.uint64(int.from_bytes(ctypes.string_at(address, width), "little"))

        return load

    def _store_of(self, width: int) -> Any:
        def store(address: int, value: np.uint64) -> None:
            self.count_store(address, width)
            ctypes.memmove(address, int(value).to_bytes(8, "little"), width)

        return store

    def _load_16(self, address: int) -> tuple[np.uint64, np.uint64]:
        self.check_load(address, 16)
        low, high = (ctypes.c_uint64 * 2).from_address(address)
        return np.uint64(low), np.uint64(high)

    def _store_16(self, address: int, low: np.uint64, high: np.uint64) -> None:
        self.count_store(address, 16)
        (ctypes.c_uint64 * 2).from_address(address)[:] = [int(low), int(high)]

    def _load_word(self, address: int) -> int:
        self.check_load(address, 8)
        return ctypes.c_int64.from_address(address).value


def check_alignment(access: str, address: int, width: int) -> None:
    if address % width:
        raise BadAccessError(f"{access} of {width} bytes {address % width} past a multiple of it")


def plain(function: Any) -> Any:
    """A device function needs nothing more to be called from simulated threads."""
    return function


def simulated(kernel: Any, memory: Memory) -> Any:
    """A kernel, or any function, that the simulator launches as `kernel[blocks, threads](...)`."""
    return cuda.jit(relinked(kernel, plain, {}, memory.accesses()))


def simulated_kernels(memory: Memory) -> dict[Kernel, Any]:
    """Every kernel, in one memory."""
    return {kernel: simulated(source.function, memory) for kernel, source in SOURCES.items()}
