"""What torch needs to be told so that a fake step for a GPU runs where there is none."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from profiles.errors import WorkloadError

CUDA = 1
"""`c10::DeviceType::CUDA`."""
MOST_VIRTUAL_FUNCTIONS = 64


@contextmanager
def cuda_pretended() -> Iterator[None]:
    """Lets fake tensors on `cuda` be trained, with autocast and GradScaler, on any machine.

    Raises:
        WorkloadError: This build of torch cannot.
    """
    _provide_device_guard()
    common = torch.cuda.amp.common
    before = common.amp_definitely_not_available, torch.cuda.is_bf16_supported
    common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    try:
        # One thread runs backward: the engine's device threads are those of devices that exist.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        common.amp_definitely_not_available, torch.cuda.is_bf16_supported = before


def _provide_device_guard() -> None:
    """Gives torch a device guard for CUDA that does nothing, if it has none.

    [Note: the missing device guard] Ops on a fake CUDA tensor switch the current device through
    `c10::impl::device_guard_impl_registry`. Where CUDA is built in but no GPU is there,
    `torch._C._ensureCUDADeviceGuardSet` puts a guard there that does nothing; the fake mode calls
    it. Where torch was built without CUDA, the place is empty and that function leaves it so: it
    replaces only a guard that counts no devices. So one that counts none is put there first: an
    object whose every virtual function returns 0. It is asked for its count, replaced, and gone.
    """
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    try:
        registry = (ctypes.c_void_p * (CUDA + 1)).in_dll(
            ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE"
        )
    except (OSError, ValueError) as error:
        raise WorkloadError(
            f"torch {torch.__version__} here cannot estimate for a GPU ({error}). Install a build "
            "of torch with CUDA; a GPU is not needed."
        ) from error
    if registry[CUDA]:
        return
    returns_zero = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
    address = ctypes.cast(returns_zero, ctypes.c_void_p).value
    functions = (ctypes.c_void_p * MOST_VIRTUAL_FUNCTIONS)(*[address] * MOST_VIRTUAL_FUNCTIONS)
    guard = ctypes.c_void_p(ctypes.addressof(functions))
    registry[CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
    if registry[CUDA] == ctypes.addressof(guard):
        registry[CUDA] = None
        raise WorkloadError(
            f"torch {torch.__version__} here cannot estimate for a GPU. Install a build of torch "
            "with CUDA; a GPU is not needed."
        )
