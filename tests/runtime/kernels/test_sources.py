"""The third of three executions of the kernels' source: device code, read instead of run.

Compiled and linked for two generations of devices on a machine that has none.
"""

import re
from functools import cache
from itertools import product
from types import SimpleNamespace

import pytest
from numba import cuda, types

from runtime.kernels.access import LOAD_16_PTX, STORE_16_PTX, load_word, store_8
from runtime.kernels.cuda_carrier import compile_kernels
from runtime.kernels.job import MAX_BLOCK_THREADS, Kernel
from runtime.kernels.sources import SOURCES
from tests.support.kernels.device_code import (
    ARCHITECTURES,
    DeviceCode,
    Route,
    accesses,
    compiled,
    link,
)

# What the register file of these devices has for each thread of a full block.
REGISTERS_PER_BLOCK = 65_536
ELF = b"\x7fELF"
# 16-byte loads and stores: four at a time and one by one; 32 bools.
VECTOR_ACCESSES = {
    Kernel.COPY: (5, 5),
    Kernel.BATCH: (5, 5),
    Kernel.PACK: (2, 0),
    Kernel.UNPACK: (0, 2),
}

each_kernel = pytest.mark.parametrize(
    ("kernel", "architecture"),
    list(product(Kernel, ARCHITECTURES)),
    ids=lambda value: value.value if isinstance(value, Kernel) else "sm_{}{}".format(*value),
)


@cache
def ptx_of(kernel: Kernel, architecture: tuple[int, int]) -> str:
    return compiled(*SOURCES[kernel], architecture, Route.PTX).decode()


@cache
def linked(kernel: Kernel, architecture: tuple[int, int], route: Route) -> DeviceCode:
    if route is Route.PTX:
        return link(ptx_of(kernel, architecture).encode(), architecture, route)
    return link(compiled(*SOURCES[kernel], architecture, route), architecture, route)


def test_compiled_by_numba_cuda() -> None:
    assert cuda.implementation == "NVIDIA"


@pytest.fixture
def device_that_only_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's questions about the device, answered; code is compiled but never loaded."""
    device = SimpleNamespace(compute_capability=(9, 0))
    context = SimpleNamespace(device=device)
    monkeypatch.setattr("numba.cuda.is_available", lambda: True)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    monkeypatch.setattr("numba.cuda.codegen.devices.get_context", lambda: context)
    monkeypatch.setattr("numba.cuda.dispatcher._Kernel.bind", lambda kernel: None)


@pytest.mark.usefixtures("device_that_only_answers")
def test_kernels_are_compiled_before_any_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a device up to the driver: numba's own compiler options and linker."""
    monkeypatch.setattr("runtime.kernels.sources.SOURCES", {Kernel.COPY: SOURCES[Kernel.COPY]})
    dispatcher = compile_kernels()[Kernel.COPY]
    assert dispatcher.signatures == [(types.int64,) * 3]
    (ready,) = dispatcher.overloads.values()
    linked_by_numba = bytes(ready._codelibrary.get_cubin(cc=(9, 0)).code)
    assert linked_by_numba.startswith(ELF)


@each_kernel
def test_accesses_are_16_bytes_wide(kernel: Kernel, architecture: tuple[int, int]) -> None:
    found = accesses(ptx_of(kernel, architecture))
    assert (found.count(LOAD_16_PTX), found.count(STORE_16_PTX)) == VECTOR_ACCESSES[kernel]
    # Nothing is guessed at run time to be global memory, and nothing lies on a stack.
    assert {access.split(".")[1] for access in found} == {"global"}


@each_kernel
def test_a_kernel_is_one_piece_for_its_target(
    kernel: Kernel, architecture: tuple[int, int]
) -> None:
    ptx = ptx_of(kernel, architecture)
    assert ".target sm_{}{}".format(*architecture) in ptx
    assert len(re.findall(r"\.entry \S+\(", ptx)) == 1
    assert not re.search(r"\bcall\b|\.local|\.extern|\.func", ptx)
    arguments = re.findall(r"\.param (\.\S+) ", ptx)
    assert arguments == [".u64"] * SOURCES[kernel].signature.count("int64")


@each_kernel
@pytest.mark.parametrize("route", Route)
def test_a_full_block_fits_without_spills(
    kernel: Kernel, architecture: tuple[int, int], route: Route
) -> None:
    code = linked(kernel, architecture, route)
    assert (code.spill_bytes, code.stack_bytes) == (0, 0)
    assert 0 < code.registers * MAX_BLOCK_THREADS <= REGISTERS_PER_BLOCK
    assert code.cubin.startswith(ELF)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", [Kernel.COPY, Kernel.BATCH])
def test_four_vectors_are_in_flight(kernel: Kernel, architecture: tuple[int, int]) -> None:
    found = accesses(ptx_of(kernel, architecture))
    vectors = [access for access in found if access in (LOAD_16_PTX, STORE_16_PTX)]
    row = [LOAD_16_PTX] * 4 + [STORE_16_PTX] * 4
    one_by_one = [LOAD_16_PTX, STORE_16_PTX]
    assert vectors in (row + one_by_one, one_by_one + row)


def pairs_kernel(target: int, source: int) -> None:
    place = cuda.grid(1) << 4
    low = load_word(source + place)
    high = load_word(source + place + 8)
    store_8(target + place, low)
    store_8(target + place + 8, high)


def test_narrow_accesses_are_seen() -> None:
    """Two accesses of 8 bytes side by side do not become one of 16, and the check says so."""
    ptx = compiled(pairs_kernel, "void(int64, int64)", (9, 0), Route.PTX).decode()
    assert accesses(ptx) == ["ld.global.u64"] * 2 + ["st.global.u64"] * 2


def test_spills_are_seen() -> None:
    """With too few registers the assembler must spill, and the check says so."""
    free = re.sub(r"\.(maxntid|minnctapersm)[^{\n]*", "", ptx_of(Kernel.COPY, (9, 0)))
    code = link(free.encode(), (9, 0), Route.PTX, "-maxrregcount=24")
    assert code.registers <= 24
    assert code.spill_bytes > 0
