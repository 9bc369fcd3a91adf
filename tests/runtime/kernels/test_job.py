"""What is said of a copy before any kernel runs: tables, host bytes, grids."""

import sys
from typing import Any

import pytest

from profiles.schema.errors import SwapplanError
from profiles.schema.link import CopyMethod, host_size_bytes
from runtime.kernels.cuda_carrier import compile_kernels
from runtime.kernels.job import BatchTable, CopyJob, Grid, batch_words, write_batch
from tests.support.commands import python
from tests.support.kernels.buffers import Buffer, words_at


def test_only_packing_changes_the_host_bytes() -> None:
    assert {engine: host_size_bytes(engine, 1001) for engine in CopyMethod} == {
        CopyMethod.DMA: 1001,
        CopyMethod.VECTOR_KERNEL: 1001,
        CopyMethod.BATCH_KERNEL: 1001,
        CopyMethod.BITPACK_KERNEL: 126,
    }


def test_a_batch_is_cut_into_rows() -> None:
    jobs = (
        CopyJob(source_address=4096, target_address=8192, size_bytes=70),
        CopyJob(source_address=5, target_address=9, size_bytes=32),
    )
    words = batch_words(jobs, chunk_bytes=32)
    assert words.tolist() == [
        *(8192, 4096, 32),
        *(8224, 4128, 32),
        *(8256, 4160, 6),
        *(9, 5, 32),
    ]
    memory = Buffer(8 * len(words))
    table = write_batch(words, memory.address, memory.size_bytes)
    assert table == BatchTable(address=memory.address, rows=4)
    assert words_at(table.address, 12) == words.tolist()
    assert memory.guards_hold()
    with pytest.raises(ValueError, match="does not fit 95 bytes"):
        write_batch(words, memory.address, memory.size_bytes - 1)
    with pytest.raises(ValueError, match="does not fit"):
        write_batch(words, memory.address + 4, memory.size_bytes)
    for chunk_bytes in (0, -16, 24):
        with pytest.raises(ValueError, match="multiple of 16"):
            batch_words(jobs, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize(
    ("blocks", "threads"), [(0, 32), (1, 0), (1, 33), (1, 1056), (-1, 32), (1, -32)]
)
def test_a_grid_no_device_can_run_is_refused(blocks: int, threads: int) -> None:
    with pytest.raises(ValueError, match="no grid a device can run"):
        Grid(blocks=blocks, threads=threads)


@pytest.mark.parametrize("field", ["source_address", "target_address", "size_bytes"])
def test_a_copy_of_nothing_is_refused(field: str) -> None:
    good: dict[str, Any] = {"source_address": 48, "target_address": 40, "size_bytes": 1}
    assert CopyJob(**good).size_bytes == 1
    with pytest.raises(ValueError, match="no copy"):
        CopyJob(**{**good, field: 0})


def test_kernels_without_numba_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(SwapplanError, match=r"found no numba.*swapplan\[cuda\]"):
        compile_kernels()


def test_kernels_without_numba_cuda_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.cuda.implementation", "Built-in")
    with pytest.raises(SwapplanError, match=r"found numba alone.*swapplan\[cuda\]"):
        compile_kernels()


def test_kernels_without_a_device_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.cuda.is_available", lambda: False)
    with pytest.raises(SwapplanError, match="numba-cuda finds none"):
        compile_kernels()


def test_nothing_imports_numba_before_kernels_are_compiled() -> None:
    code = "import sys, runtime, runtime.lanes.copy_device; print('numba' in sys.modules)"
    assert python(code).stdout == "False\n"
