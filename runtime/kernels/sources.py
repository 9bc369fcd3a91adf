"""What each kernel is compiled from, and how that is made for another target than CUDA."""

from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple

from runtime.kernels.bitpacked import pack_kernel, unpack_kernel
from runtime.kernels.contiguous import batch_kernel, copy_kernel
from runtime.kernels.job import Kernel

NOTHING: Mapping[str, Any] = MappingProxyType({})


class KernelSource(NamedTuple):
    """A function and the types of its arguments, all integers: see `runtime.kernels.access`."""

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


def relinked(
    function: Any,
    finish: Callable[[Any], Any],
    done: dict[Any, Any],
    replaced: Mapping[str, Any] = NOTHING,
) -> Any:
    """Makes a kernel or a device function, and all it calls, for another target.

    They reach each other by name; a target gets its own by putting its functions behind the names.
    `finish` makes a plain function one of the target's, `done` keeps what was made before, and
    `replaced` are the functions that the target has its own of, by name.
    """
    body = getattr(function, "py_func", function)
    if body not in done:
        names = dict(body.__globals__)
        for name in body.__code__.co_names:
            if name in replaced:
                names[name] = replaced[name]
            elif hasattr(names.get(name), "py_func"):
                names[name] = relinked(names[name], finish, done, replaced)
        done[body] = finish(FunctionType(body.__code__, names, body.__name__))
    return done[body]
