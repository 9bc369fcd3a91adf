"""Compiles the copy kernels for the current device, before training."""

from typing import TYPE_CHECKING

from profiles.schema.errors import SwapplanError
from runtime.kernels.job import MAX_BLOCK_THREADS

if TYPE_CHECKING:
    from runtime.kernels.launcher import KernelLauncher

# Most threads of a block, and how many such blocks a multiprocessor must hold. One is enough, as a
# copy has few blocks; left to itself the assembler makes room for two, and spills for it.
LAUNCH_BOUNDS = (MAX_BLOCK_THREADS, 1)
INSTALL = "Install it with: pip install 'swapplan[cuda]'"


def compile_kernels() -> "KernelLauncher":
    """Compiles and loads every kernel, so that no launch does (and no rank lags by seconds).

    torch must have made the device current: see [Note: device of a launch].

    Raises:
        SwapplanError: numba-cuda is missing, or there is no device it can compile for.
    """
    try:
        from numba import cuda
    except ImportError as error:
        raise SwapplanError(
            f"The copy kernels need numba-cuda, found no numba. {INSTALL}"
        ) from error
    # Without numba-cuda, numba answers with its own older CUDA part, which is no longer developed.
    if getattr(cuda, "implementation", None) != "NVIDIA":
        raise SwapplanError(f"The copy kernels need numba-cuda, found numba alone. {INSTALL}")
    if not cuda.is_available():
        raise SwapplanError(
            "The copy kernels need a CUDA device, numba-cuda finds none. "
            "Use the copy engine, or the emulated accelerator."
        )
    from runtime.kernels.kernel import SOURCES
    from runtime.kernels.launcher import KernelLauncher

    compiled = {
        kernel: cuda.jit(source.signature, launch_bounds=LAUNCH_BOUNDS)(source.function)
        for kernel, source in SOURCES.items()
    }
    return KernelLauncher(compiled, cuda.external_stream)
