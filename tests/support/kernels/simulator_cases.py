"""Run by `tests/runtime/kernels/test_simulated.py` in a process of their own, in the simulator."""

from typing import Any

import numpy as np
import pytest
from numba import cuda
from numba.core import config

from runtime.kernels.contiguous import copy_vectors
from runtime.kernels.cuda_carrier import launcher_of
from runtime.kernels.job import BatchTable, CopyJob, Grid, batch_words, write_batch
from tests.support.kernels.buffers import Buffer, of_words, random_bytes
from tests.support.kernels.simulator import BadAccessError, Memory, simulated, simulated_kernels

# The simulated numbers wrap as the device's do, which NumPy remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

GRID = Grid(blocks=2, threads=32)


class Bench:
    """A launcher of simulated kernels, and the memory they may touch."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.launcher = launcher_of(simulated_kernels(self.memory), lambda handle: 0)

    def check_written_once(self, buffer: Buffer) -> None:
        assert (self.memory.times_written(buffer) == 1).all()
        assert buffer.guards_hold()


@pytest.fixture
def bench() -> Bench:
    assert config.ENABLE_CUDASIM
    return Bench()


def job(target: Buffer, source: Buffer, size_bytes: int) -> CopyJob:
    return CopyJob(
        source_address=source.address, target_address=target.address, size_bytes=size_bytes
    )


@pytest.mark.parametrize("offsets", [(0, 0), (5, 5), (15, 15), (0, 4), (6, 10), (3, 0)])
@pytest.mark.parametrize("size_bytes", [1, 15, 16, 40, 1023, 4096, 9001])
def test_copy(bench: Bench, size_bytes: int, offsets: tuple[int, int]) -> None:
    source = bench.memory.read(random_bytes(size_bytes, offsets[1]))
    target = bench.memory.write(Buffer(size_bytes, offsets[0]))
    bench.launcher.copy(job(target, source, size_bytes), GRID, 0)
    assert np.array_equal(target.bytes, source.bytes)
    bench.check_written_once(target)


def test_copy_of_64_kib_by_blocks_that_walk_on(bench: Bench) -> None:
    size_bytes = 65_536 + 11
    source = bench.memory.read(random_bytes(size_bytes))
    target = bench.memory.write(Buffer(size_bytes))
    bench.launcher.copy(job(target, source, size_bytes), Grid(blocks=3, threads=64), 0)
    assert np.array_equal(target.bytes, source.bytes)
    bench.check_written_once(target)


@pytest.mark.parametrize("blocks", [1, 4])
def test_batch(bench: Bench, blocks: int) -> None:
    sizes = (1, 700, 16, 5000, 33, 4096)
    sources = [bench.memory.read(random_bytes(size, number)) for number, size in enumerate(sizes)]
    targets = [bench.memory.write(Buffer(size, number % 3)) for number, size in enumerate(sizes)]
    jobs = [job(t, s, s.size_bytes) for t, s in zip(targets, sources, strict=True)]
    words = batch_words(jobs, chunk_bytes=1024)
    memory = bench.memory.read(Buffer(8 * len(words)))
    table = write_batch(words, memory.address, memory.size_bytes)
    bench.launcher.copy_batch(table, Grid(blocks=blocks, threads=32), 0)
    for target, source in zip(targets, sources, strict=True):
        assert np.array_equal(target.bytes, source.bytes)
        bench.check_written_once(target)


@pytest.mark.parametrize("offsets", [(0, 0), (0, 1), (4, 16), (1, 0)])
@pytest.mark.parametrize("bools", [1, 7, 8, 31, 32, 100, 2047, 4104])
def test_pack_and_unpack(bench: Bench, bools: int, offsets: tuple[int, int]) -> None:
    bit_offset, bool_offset = offsets
    mask = bench.memory.read(random_bytes(bools, bool_offset, below=2))
    bits = bench.memory.write(Buffer(-(-bools // 8), bit_offset))
    flag = bench.memory.write(of_words((0,)))
    bench.launcher.pack(job(bits, mask, bools), flag.address, GRID, 0)
    assert bits.bytes.tobytes() == np.packbits(mask.bytes, bitorder="little").tobytes()
    bench.check_written_once(bits)
    assert not bench.memory.times_written(flag).any()

    bench.memory.read(bits)
    back = bench.memory.write(Buffer(bools, bool_offset))
    bench.launcher.unpack(job(back, bits, bools), GRID, 0)
    assert np.array_equal(back.bytes, mask.bytes)
    bench.check_written_once(back)


@pytest.mark.parametrize("place", [3, 70])
def test_a_byte_that_is_no_bool_is_reported(bench: Bench, place: int) -> None:
    mask = bench.memory.read(random_bytes(71, below=2))
    mask.bytes[place] = 0x80
    bits, flag = bench.memory.write(Buffer(9)), bench.memory.write(of_words((0,)))
    bench.launcher.pack(job(bits, mask, 71), flag.address, GRID, 0)
    assert bits.bytes.tobytes() == np.packbits(mask.bytes != 0, bitorder="little").tobytes()
    assert flag.bytes.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


# The checks themselves: each fault is planted, and must be found.


def test_a_load_past_the_end_is_found(bench: Bench) -> None:
    source = bench.memory.read(random_bytes(96))
    target = bench.memory.write(Buffer(112))
    with pytest.raises(BadAccessError, match="load of 16 bytes outside"):
        bench.launcher.copy(job(target, source, 112), GRID, 0)


def test_a_store_past_the_end_is_found(bench: Bench) -> None:
    source = bench.memory.read(random_bytes(97))
    target = bench.memory.write(Buffer(96))
    with pytest.raises(BadAccessError, match="store of 1 bytes outside"):
        bench.launcher.copy(job(target, source, 97), GRID, 0)


def test_a_store_to_the_source_is_found(bench: Bench) -> None:
    source, target = bench.memory.read(random_bytes(64)), bench.memory.write(Buffer(64))
    with pytest.raises(BadAccessError, match="outside"):
        bench.launcher.copy(job(source, target, 64), GRID, 0)


def vectors_kernel(target: int, source: int, vectors: int) -> None:
    copy_vectors(cuda.grid(1), cuda.gridsize(1), target, source, vectors)


@pytest.mark.parametrize(
    ("offsets", "access"),
    [((0, 8), "load of 16 bytes 8 past"), ((4, 0), "store of 16 bytes 4 past")],
)
def test_a_vector_at_no_multiple_of_16_is_found(
    bench: Bench, offsets: tuple[int, int], access: str
) -> None:
    source = bench.memory.read(random_bytes(64, offsets[1]))
    target = bench.memory.write(Buffer(64, offsets[0]))
    kernel: Any = simulated(vectors_kernel, bench.memory)
    with pytest.raises(BadAccessError, match=access):
        kernel[1, 32](target.address, source.address, 4)


def test_a_place_written_twice_is_counted(bench: Bench) -> None:
    source, target = bench.memory.read(random_bytes(12)), bench.memory.write(Buffer(20))
    jobs = [
        CopyJob(source_address=source.address, target_address=target.address + at, size_bytes=12)
        for at in (0, 8)
    ]
    words = bench.memory.read(of_words(tuple(batch_words(jobs, chunk_bytes=1024))))
    bench.launcher.copy_batch(BatchTable(address=words.address, rows=2), GRID, 0)
    assert bench.memory.times_written(target).tolist() == [1] * 8 + [2] * 4 + [1] * 8
