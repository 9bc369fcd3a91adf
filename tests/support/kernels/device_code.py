"""The kernels' device code, compiled and linked without a driver.

`python -m tests.support.kernels.device_code` prints what the device code of every kernel is made
of.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cuda.bindings import nvjitlink
from numba import cuda

from runtime.kernels.access import LOAD_16_PTX, STORE_16_PTX
from runtime.kernels.cuda_carrier import LAUNCH_BOUNDS
from runtime.kernels.sources import SOURCES

ARCHITECTURES = ((8, 0), (9, 0))
ACCESS = re.compile(r"^\s*(?:@!?%p\d+ )?((?:ld|st)\.\S+)", re.MULTILINE)


class Route(Enum):
    """How a kernel gets from what numba compiles to what a device loads.

    PTX: By assembly that can be read.
    LTO: By code that is optimised when it is linked, which is what a launch uses.
    """

    PTX = "ptx"
    LTO = "ltoir"


INPUTS = {Route.PTX: nvjitlink.InputType.PTX, Route.LTO: nvjitlink.InputType.LTOIR}
FLAGS = {Route.PTX: (), Route.LTO: ("-lto",)}


@dataclass(frozen=True, kw_only=True)
class DeviceCode:
    """What a kernel became.

    Attributes:
        registers: Registers of a thread.
        spill_bytes: Bytes a thread writes and reads for want of registers.
        stack_bytes: Bytes of a thread's stack.
        cubin: What a device loads.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    cubin: bytes


def compiled(function: Any, signature: str, architecture: tuple[int, int], route: Route) -> bytes:
    """Compiles a kernel with the options `runtime.kernels.cuda_carrier` uses."""
    code, _ = cuda.compile(
        function,
        signature,
        device=False,
        abi="numba",
        cc=architecture,
        output=route.value,
        launch_bounds=LAUNCH_BOUNDS,
    )
    return code.encode() if isinstance(code, str) else bytes(code)


def link(code: bytes, architecture: tuple[int, int], route: Route, *options: str) -> DeviceCode:
    """Links what was compiled, and reads what the assembler says of it."""
    flags = ["-arch=sm_{}{}".format(*architecture), "-verbose", *FLAGS[route], *options]
    linker = nvjitlink.create(len(flags), flags)
    try:
        nvjitlink.add_data(linker, INPUTS[route], code, len(code), "kernel")
        nvjitlink.complete(linker)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, cubin)
    finally:
        nvjitlink.destroy(linker)
    said = log.decode()
    stores, loads = (number(rf"(\d+) bytes spill {way}", said) for way in ("stores", "loads"))
    return DeviceCode(
        registers=number(r"Used (\d+) registers", said),
        spill_bytes=stores + loads,
        stack_bytes=number(r"(\d+) bytes stack frame", said),
        cubin=bytes(cubin),
    )


def number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{pattern} in: {text}"
    return int(found[0])


def accesses(ptx: str) -> list[str]:
    """Loads and stores of a kernel in the order of its code, arguments apart."""
    return [access for access in ACCESS.findall(ptx) if not access.startswith("ld.param")]


def print_all() -> None:
    print("kernel   target  route  registers  spill bytes  16-byte loads  16-byte stores  cubin")
    for kernel, source in SOURCES.items():
        for architecture in ARCHITECTURES:
            ptx = compiled(*source, architecture, Route.PTX)
            found = accesses(ptx.decode())
            vectors = [found.count(access) for access in (LOAD_16_PTX, STORE_16_PTX)]
            for route in Route:
                code = link(compiled(*source, architecture, route), architecture, route)
                print(
                    f"{kernel.value:8} sm_{architecture[0]}{architecture[1]}   {route.name}"
                    f"{code.registers:12}{code.spill_bytes:13}{vectors[0]:15}{vectors[1]:16}"
                    f"{len(code.cubin):7}"
                )


if __name__ == "__main__":
    print_all()
