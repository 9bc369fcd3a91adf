"""The kernels by name, each with its function and the types of its arguments."""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from runtime.kernels.bitpacked import pack_kernel, unpack_kernel
from runtime.kernels.contiguous import batch_kernel, copy_kernel


class Kernel(Enum):
    """A kernel that can be launched."""

    COPY = "copy"
    BATCH = "batch"
    PACK = "pack"
    UNPACK = "unpack"


class KernelSource(NamedTuple):
    """What a kernel is compiled from.

    Attributes:
        function: Its function.
        signature: Its arguments, all of them integers: see `runtime.kernels.access`.
    """

    function: Callable[..., None]
    signature: str


SOURCES: Mapping[Kernel, KernelSource] = MappingProxyType(
    {
        Kernel.COPY: KernelSource(copy_kernel, "void(int64, int64, int64)"),
        Kernel.BATCH: KernelSource(batch_kernel, "void(int64, int64)"),
        Kernel.PACK: KernelSource(pack_kernel, "void(int64, int64, int64, int64)"),
        Kernel.UNPACK: KernelSource(unpack_kernel, "void(int64, int64, int64)"),
    }
)
