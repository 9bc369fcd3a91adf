"""Kernels that copy bools as bits, and back: eight times fewer bytes cross the link.

Bit `i % 8` of byte `i // 8` is bool `i`, as in `numpy.packbits(bitorder="little")`.
"""

import numpy
from numba import cuda

from runtime.kernels.access import (
    device,
    load_1,
    load_4,
    load_16,
    store_1,
    store_4,
    store_8,
    store_16,
)

# See [Note: types in kernels] for why these are made here.
ZERO = numpy.uint64(0)
ONE = numpy.uint64(1)
SEVEN = numpy.uint64(7)
EIGHT = numpy.uint64(8)
SIXTEEN = numpy.uint64(16)
TWENTY_FOUR = numpy.uint64(24)
TOP_BYTE = numpy.uint64(56)
LOW_BYTE = numpy.uint64(0xFF)
LOW_BITS = numpy.uint64(0x0101010101010101)
LOW_SEVENS = numpy.uint64(0x7F7F7F7F7F7F7F7F)
# Bits that no bool has.
STRAY_BITS = numpy.uint64(0xFEFEFEFEFEFEFEFE)
# Multiplied with eight bools, this puts bool `i` at bit `i` of the top byte; no two meet.
COLLECT = numpy.uint64(0x0102040810204080)
# Bit `i` of byte `i`.
DIAGONAL = numpy.uint64(0x8040201008040201)


@device
def are_set(octet: numpy.uint64) -> numpy.uint64:
    """Returns, for each of 8 bytes, 1 if any of its bits is set, else 0."""
    return ((((octet & LOW_SEVENS) + LOW_SEVENS) | octet) >> SEVEN) & LOW_BITS


@device
def bits_of(bools: numpy.uint64) -> numpy.uint64:
    """Returns 8 bools, one a byte, as 8 bits."""
    return (are_set(bools) * COLLECT) >> TOP_BYTE


@device
def bools_of(bits: numpy.uint64) -> numpy.uint64:
    """Returns 8 bits as 8 bools, one a byte."""
    return are_set(((bits & LOW_BYTE) * LOW_BITS) & DIAGONAL)


@device
def pack_share(
    thread: int, threads: int, target: int, source: int, bools: int, stray_flag: int
) -> None:
    """Packs this thread's share of some bools: 32 of them to a 4-byte word, the rest to bytes.

    bools        0 ... 31|32 ... 63|64 ... 95|96 .. 103|104 .. 109
    thread 0     word 0    .         word 2    byte 12   .
    thread 1     .         word 1    .         .         byte 13
    bits          0 ... 3|4  ...  7|8 ...  11|   12    |    13

    [Note: stray bools] A byte that is neither 0 nor 1 counts as true, as it does in an op, but it
    comes back as 1. So that such a copy is not taken for exact, it also sets the flag. The
    bits above the last bool of the last byte are 0.
    """
    words = 0
    if source & 15 == 0 and target & 3 == 0:
        words = bools >> 5
    stray = ZERO
    word = thread
    while word < words:
        first, second = load_16(source + (word << 5))
        third, fourth = load_16(source + (word << 5) + 16)
        stray |= (first | second | third | fourth) & STRAY_BITS
        low = bits_of(first) | (bits_of(second) << EIGHT)
        high = (bits_of(third) << SIXTEEN) | (bits_of(fourth) << TWENTY_FOUR)
        store_4(target + (word << 2), low | high)
        word += threads
    octet = (words << 2) + thread
    while octet << 3 < bools:
        packed = ZERO
        weight = ONE
        for index in range(octet << 3, min((octet << 3) + 8, bools)):
            value = load_1(source + index)
            stray |= value & STRAY_BITS
            packed |= are_set(value) * weight
            weight += weight
        store_1(target + octet, packed)
        octet += threads
    if stray != ZERO:
        store_8(stray_flag, ONE)


@device
def unpack_share(thread: int, threads: int, target: int, source: int, bools: int) -> None:
    """Unpacks this thread's share of some bools: 4-byte words of 32, the rest one by one.

    bits          0 ... 3|4 ...  7|8 ... 11|12 13
    thread 0     word 0   .        word 2   b . b . b
    thread 1     .        word 1   .        . b . b .
    bools        0 ... 31|32 .. 63|64 .. 95|96 97 98 ...
    """
    words = 0
    if target & 15 == 0 and source & 3 == 0:
        words = bools >> 5
    word = thread
    while word < words:
        bits = load_4(source + (word << 2))
        there = target + (word << 5)
        store_16(there, bools_of(bits), bools_of(bits >> EIGHT))
        store_16(there + 16, bools_of(bits >> SIXTEEN), bools_of(bits >> TWENTY_FOUR))
        word += threads
    index = (words << 5) + thread
    while index < bools:
        bits = load_1(source + (index >> 3))
        store_1(target + index, (bits >> numpy.uint64(index & 7)) & ONE)
        index += threads


def pack_kernel(target: int, source: int, bools: int, stray_flag: int) -> None:
    """Packs bools into bits. See `pack_share`."""
    pack_share(cuda.grid(1), cuda.gridsize(1), target, source, bools, stray_flag)


def unpack_kernel(target: int, source: int, bools: int) -> None:
    """Unpacks bits into bools. See `unpack_share`."""
    unpack_share(cuda.grid(1), cuda.gridsize(1), target, source, bools)
