"""What is said of a copy before any kernel runs: layouts, tables, engines, grids."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.schema.errors import SwapplanError
from runtime.kernels import (
    BatchTable,
    CopyJob,
    CopyMethod,
    Grid,
    StridedLayout,
    batch_words,
    engines_for,
    host_size_bytes,
    write_batch,
)
from runtime.kernels.compile import compile_kernels
from tests.support.kernels.buffers import Buffer, words_at

CONTIGUOUS = (CopyMethod.DMA, CopyMethod.VECTOR_KERNEL, CopyMethod.BATCH_KERNEL)


def places(layout: StridedLayout) -> list[int]:
    """Where every byte of a layout lies, in order, counted by hand."""
    items = np.zeros(layout.shape, dtype=np.int64)
    for axis, (extent, stride) in enumerate(zip(layout.shape, layout.strides_bytes, strict=True)):
        along = np.arange(extent) * stride
        items += along.reshape([-1 if other == axis else 1 for other in range(items.ndim)])
    of_items = items.reshape(-1, 1) + np.arange(layout.item_bytes)
    return [int(place) for place in of_items.ravel()]


@st.composite
def layouts(draw: st.DrawFn) -> StridedLayout:
    dimensions = draw(st.integers(0, 6))
    return StridedLayout(
        item_bytes=draw(st.sampled_from([1, 2, 3, 4, 8, 12, 16])),
        shape=tuple(draw(st.integers(1, 4)) for _ in range(dimensions)),
        strides_bytes=tuple(draw(st.integers(-64, 64)) for _ in range(dimensions)),
    )


@given(layouts(), st.sampled_from([1, 2, 4, 8, 16]))
def test_a_collapsed_layout_is_the_same_bytes_in_the_same_order(
    layout: StridedLayout, alignment_bytes: int
) -> None:
    collapsed = layout.collapsed(alignment_bytes)
    assert places(collapsed) == places(layout)
    assert collapsed.size_bytes == layout.size_bytes
    assert alignment_bytes % collapsed.item_bytes == 0
    assert all(stride % collapsed.item_bytes == 0 for stride in collapsed.strides_bytes)
    assert len(collapsed.shape) <= len(layout.shape) + 1
    assert layout.is_compact == (places(layout) == list(range(layout.size_bytes)))


@given(layouts())
def test_a_layout_that_can_be_carried_writes_every_place_once(layout: StridedLayout) -> None:
    everywhere = places(layout)
    if layout.can_be_carried:
        assert len(set(everywhere)) == len(everywhere)
        # A kernel takes it as it is, however badly it lies.
        layout.collapsed(alignment_bytes=layout.item_bytes & -layout.item_bytes).words()


def test_runs_become_wide_items() -> None:
    layout = StridedLayout(item_bytes=2, shape=(4, 6, 8), strides_bytes=(192, 16, 2))
    wide = StridedLayout(item_bytes=16, shape=(4, 6), strides_bytes=(192, 16))
    assert layout.collapsed() == wide
    assert wide.words() == (16, 24, 1, 1, 1, 4, 6, 0, 0, 0, 192, 16)


def test_a_layout_no_kernel_takes_has_no_words() -> None:
    deep = StridedLayout(item_bytes=1, shape=(2,) * 6, strides_bytes=(729, 243, 81, 27, 9, 3))
    assert not deep.can_be_carried
    assert not StridedLayout(item_bytes=4, shape=(8,), strides_bytes=(0,)).can_be_carried
    with pytest.raises(ValueError, match="no kernel takes this layout"):
        deep.words()
    with pytest.raises(ValueError, match="no kernel takes this layout"):
        StridedLayout(item_bytes=12, shape=(2,), strides_bytes=(24,)).words()
    with pytest.raises(ValueError, match="no bytes"):
        StridedLayout(item_bytes=4, shape=(3, 0), strides_bytes=(4, 4))
    with pytest.raises(ValueError, match="1 extents with 2 strides"):
        StridedLayout(item_bytes=4, shape=(3,), strides_bytes=(4, 4))


def test_engines_that_can_carry_a_copy() -> None:
    rows = StridedLayout(item_bytes=4, shape=(8, 16), strides_bytes=(128, 4))
    whole = StridedLayout(item_bytes=4, shape=(8, 16), strides_bytes=(64, 4))
    same_place = StridedLayout(item_bytes=4, shape=(8, 16), strides_bytes=(0, 4))
    assert engines_for(512) == CONTIGUOUS
    assert engines_for(512, is_mask=True) == (*CONTIGUOUS, CopyMethod.BITPACK_KERNEL)
    assert engines_for(512, layout=whole) == CONTIGUOUS
    assert engines_for(512, layout=rows) == (CopyMethod.STRIDED_KERNEL,)
    assert engines_for(512, layout=rows, is_mask=True) == (CopyMethod.STRIDED_KERNEL,)
    assert engines_for(512, layout=same_place) == ()
    assert engines_for(0) == ()
    with pytest.raises(ValueError, match="a layout of 512 bytes for a copy of 513"):
        engines_for(513, layout=rows)


def test_only_packing_changes_the_host_bytes() -> None:
    assert {engine: host_size_bytes(engine, 1001) for engine in CopyMethod} == {
        CopyMethod.DMA: 1001,
        CopyMethod.VECTOR_KERNEL: 1001,
        CopyMethod.BATCH_KERNEL: 1001,
        CopyMethod.STRIDED_KERNEL: 1001,
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
    assert CopyJob(**good).alignment_bytes == 8
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
    code = "import sys, runtime, runtime.kernels.compile; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
