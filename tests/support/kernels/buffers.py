"""Host memory for kernels: bytes at a chosen alignment, with guards on both sides."""

import ctypes

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

GUARD_BYTES = 64
# What lies around sources and targets differs, so that a copy of too many bytes shows.
SOURCE_GUARD = 0x5A
TARGET_GUARD = 0xA5


class Buffer:
    """Bytes at an address that is a multiple of 64, plus an offset.

    Attributes:
        bytes: The bytes.
        address: Where they start.
    """

    def __init__(self, size_bytes: int, offset: int = 0, *, guard: int = TARGET_GUARD) -> None:
        self._guard = guard
        self._all = np.full(size_bytes + 4 * GUARD_BYTES, guard, dtype=np.uint8)
        start = GUARD_BYTES + (-self._all.ctypes.data % GUARD_BYTES) + offset
        self.bytes: Bytes = self._all[start : start + size_bytes]
        self.address: int = self._all.ctypes.data + start
        self._start = start

    @property
    def size_bytes(self) -> int:
        return len(self.bytes)

    def guards_hold(self) -> bool:
        """Whether nothing before or after the bytes was written."""
        before, after = self._all[: self._start], self._all[self._start + self.size_bytes :]
        return bool((before == self._guard).all() and (after == self._guard).all())


def random_bytes(size_bytes: int, offset: int = 0, *, below: int = 256) -> Buffer:
    """A buffer of random bytes; the same on every call for the same size."""
    buffer = Buffer(size_bytes, offset, guard=SOURCE_GUARD)
    buffer.bytes[:] = np.random.default_rng(size_bytes).integers(
        0, below, size_bytes, dtype=np.uint8
    )
    return buffer


def words_at(address: int, words: int) -> list[int]:
    """Signed 8-byte words in memory."""
    return list((ctypes.c_int64 * words).from_address(address))


def of_words(words: tuple[int, ...]) -> Buffer:
    """A buffer of signed 8-byte words."""
    buffer = Buffer(8 * len(words))
    buffer.bytes[:] = np.array(words, dtype=np.int64).view(np.uint8)
    return buffer
