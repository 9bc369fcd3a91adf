"""The first of three executions of the kernels' source: compiled for the CPU, against numpy."""

import mmap
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from runtime.kernels import host_carrier as kernel_cpu
from runtime.kernels.job import CopyJob, batch_words, write_batch
from tests.support.kernels.buffers import Buffer, of_words, random_bytes

MIB = 1 << 20
# Around every width of an access, and around what 8 threads carry in one turn of four vectors.
SIZES = (*range(1, 70), 127, 128, 129, 511, 512, 513, 527, 528, 1023, 4097)
LARGE_BYTES = 24 * MIB + 13


def test_a_stretch_of_any_length_and_alignment_arrives() -> None:
    offsets = ((0, 0), (3, 3), (15, 15), (0, 8), (4, 12), (2, 6), (1, 0), (0, 2), (7, 12))
    for size_bytes, (target_offset, source_offset) in product(SIZES, offsets):
        source = random_bytes(size_bytes, source_offset)
        target = Buffer(size_bytes, target_offset)
        kernel_cpu.copy(8, target.address, source.address, size_bytes)
        case = (size_bytes, target_offset, source_offset)
        assert np.array_equal(target.bytes, source.bytes), case
        assert target.guards_hold(), case


@pytest.mark.parametrize("offsets", [(0, 0), (9, 9), (4, 8), (1, 2)])
@pytest.mark.parametrize("threads", [1, 32, 96])
def test_a_large_stretch_arrives(threads: int, offsets: tuple[int, int]) -> None:
    source, target = random_bytes(LARGE_BYTES, offsets[1]), Buffer(LARGE_BYTES, offsets[0])
    kernel_cpu.copy(threads, target.address, source.address, LARGE_BYTES)
    assert np.array_equal(target.bytes, source.bytes)
    assert target.guards_hold()


def test_a_stretch_of_more_than_four_gigabytes_is_numbered_right(tmp_path: Path) -> None:
    """Only the last of very many threads runs, and of a file of 18 GB hardly a page exists."""
    size_bytes = 9 * (1 << 30) + 7
    threads = 1 << 28
    with (tmp_path / "sparse").open("w+b") as file:
        file.truncate(2 * size_bytes + 9)
        view = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.uint8)
        source, target = view[:size_bytes], view[size_bytes + 9 :]
        last_vector = 16 * (2 * threads - 1)
        source[last_vector : last_vector + 16] = range(1, 17)
        address = view.ctypes.data
        assert address % 16 == 0
        kernel_cpu.copy(threads, address + size_bytes + 9, address, size_bytes, first=threads - 1)
        assert target[last_vector : last_vector + 16].tolist() == list(range(1, 17))
        assert not target[last_vector - 16 : last_vector].any()


@pytest.mark.parametrize("blocks", [1, 3, 64])
def test_a_batch_of_many_storages_arrives(blocks: int) -> None:
    sizes = [1, 3, 16, 17, 100, 4096, 4097, 100_001, 12, 65_536] * 4
    pairs = [
        (random_bytes(size, number % 5), Buffer(size, number * 3 % 7))
        for number, size in enumerate(sizes)
    ]
    jobs = [
        CopyJob(source_address=s.address, target_address=t.address, size_bytes=s.size_bytes)
        for s, t in pairs
    ]
    words = batch_words(jobs, chunk_bytes=16_384)
    table_memory = Buffer(8 * len(words))
    table = write_batch(words, table_memory.address, table_memory.size_bytes)
    kernel_cpu.batch(blocks, 32, table.address, table.rows)
    for source, target in pairs:
        assert np.array_equal(target.bytes, source.bytes)
        assert target.guards_hold()


def packed_by_numpy(bools: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return np.packbits(bools, bitorder="little").tobytes()


def check_packing(bools: int, bool_offset: int, bit_offset: int, threads: int) -> None:
    case = (bools, bool_offset, bit_offset)
    mask, flag = random_bytes(bools, bool_offset, below=2), of_words((0,))
    bits, back = Buffer(-(-bools // 8), bit_offset), Buffer(bools, bool_offset)
    kernel_cpu.pack(threads, bits.address, mask.address, bools, flag.address)
    assert bits.bytes.tobytes() == packed_by_numpy(mask.bytes), case
    kernel_cpu.unpack(threads, back.address, bits.address, bools)
    assert np.array_equal(back.bytes, mask.bytes), case
    assert bits.guards_hold(), case
    assert back.guards_hold(), case
    assert not flag.bytes.any(), case


def test_masks_of_any_length_and_alignment_are_packed_and_unpacked() -> None:
    for bools, (bool_offset, bit_offset) in product(
        (*range(1, 140), 255, 256, 257, 1023, 5000), ((0, 0), (1, 0), (0, 1), (16, 4), (8, 2))
    ):
        check_packing(bools, bool_offset, bit_offset, threads=5)


@pytest.mark.parametrize("threads", [1, 64])
def test_a_large_mask_is_packed_and_unpacked(threads: int) -> None:
    check_packing(LARGE_BYTES, 0, 0, threads)


def test_every_octet_of_bools_and_every_byte_of_bits() -> None:
    every_byte = np.arange(256, dtype=np.uint8)
    mask, bits = Buffer(2048), Buffer(256)
    mask.bytes[:] = np.unpackbits(every_byte, bitorder="little")
    kernel_cpu.pack(3, bits.address, mask.address, 2048, of_words((0,)).address)
    assert np.array_equal(bits.bytes, every_byte)


@pytest.mark.parametrize("place", [0, 31, 32, 99])
@pytest.mark.parametrize("value", [2, 0x80, 0xFF])
def test_a_byte_that_is_no_bool_is_told_and_counts_as_true(value: int, place: int) -> None:
    mask, bits, flag = Buffer(100), Buffer(13), of_words((0,))
    mask.bytes[:] = 0
    mask.bytes[place] = value
    kernel_cpu.pack(4, bits.address, mask.address, 100, flag.address)
    assert bits.bytes.tobytes() == packed_by_numpy(mask.bytes != 0)
    assert flag.bytes.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
