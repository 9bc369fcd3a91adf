"""What torch needs to be told so that a fake step for a GPU runs where there is none."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from profiles.schema.errors import WorkloadError

CUDA = 1
"""`c10::DeviceType::CUDA`."""
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
"""`c10::impl::device_guard_impl_registry`."""
HOOKS = "_ZN2at6detail12getCUDAHooksEv"
"""`at::detail::getCUDAHooks()`."""
FUNCTIONS = 64
"""Virtual functions of an object, at most."""
HEADER = 2
"""Words that stand before the functions in a table of them."""
WORD_BYTES = ctypes.sizeof(ctypes.c_void_p)

_Function = ctypes.CFUNCTYPE(ctypes.c_int)


@contextmanager
def cuda_pretended() -> Iterator[None]:
    """Lets fake tensors on `cuda` be trained, with autocast and GradScaler, on any machine.

    Raises:
        WorkloadError: This build of torch cannot.
    """
    common = torch.cuda.amp.common
    before = common.amp_definitely_not_available, torch.cuda.is_bf16_supported
    with nullcontext() if torch.cuda.is_available() else _absent():
        common.amp_definitely_not_available = lambda: False
        torch.cuda.is_bf16_supported = lambda including_emulation=True: True
        try:
            # One thread runs backward: the engine's device threads are those of devices that exist.
            with torch.autograd.set_multithreading_enabled(False):
                yield
        finally:
            common.amp_definitely_not_available, torch.cuda.is_bf16_supported = before


@contextmanager
def _absent() -> Iterator[None]:
    _provide_guard()
    with _unbuilt():
        yield


def _provide_guard() -> None:
    """Gives torch a device guard for CUDA that does nothing, if it has none.

    [Note: the missing device guard] Ops on a fake CUDA tensor switch the current device through
    `c10::impl::device_guard_impl_registry`. Where CUDA is built in but no GPU is there,
    `torch._C._ensureCUDADeviceGuardSet` puts a guard there that does nothing; the fake mode calls
    it. Where torch was built without CUDA, the place is empty and that function leaves it so: it
    replaces only a guard that counts no devices. So one that counts none is put there first: an
    object whose every virtual function returns 0. It is asked for its count, replaced, and gone.
    """
    guards = _found("c10", lambda library: (ctypes.c_void_p * (CUDA + 1)).in_dll(library, REGISTRY))
    if guards[CUDA]:
        return
    functions = (ctypes.c_void_p * FUNCTIONS)(*[_returns_zero()] * FUNCTIONS)
    guard = ctypes.c_void_p(ctypes.addressof(functions))
    guards[CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
    if guards[CUDA] == ctypes.addressof(guard):
        guards[CUDA] = None
        raise _cannot("it takes no device guard")


@contextmanager
def _unbuilt() -> Iterator[None]:
    """Has a build of torch with CUDA say that it was built without.

    [Note: the accelerator that was built in] Autograd's engine asks which accelerator torch was
    built with, not whether one is there, and then looks for its streams. The answer comes from a
    virtual function of `at::detail::getCUDAHooks()`. Which one is found out by asking while every
    function notes its number. Then the object is given a copy of its table in which that function
    returns 0, as it does in a build without CUDA, where all this is not needed.

    Raises:
        WorkloadError: This build of torch finds the answer elsewhere.
    """
    if _built_in() is None:
        yield
        return
    hooks = _found("torch_cpu", lambda library: library[HOOKS])
    hooks.restype = ctypes.c_void_p
    table = ctypes.c_void_p.from_address(hooks())
    before = table.value
    assert before is not None
    asked: list[int] = []
    noting = [_Function(partial(_note, asked, number)) for number in range(FUNCTIONS)]
    probe = _table_like(before, dict(enumerate(map(_address, noting))))
    try:
        table.value = ctypes.addressof(probe) + HEADER * WORD_BYTES
        _built_in()
        unbuilt = _table_like(before, dict.fromkeys(asked, _returns_zero()))
        table.value = ctypes.addressof(unbuilt) + HEADER * WORD_BYTES
        if _built_in() is not None:
            raise _cannot("it insists on its accelerator")
        yield
    finally:
        table.value = before


def _built_in() -> torch.device | None:
    return torch.accelerator.current_accelerator(check_available=False)


def _note(asked: list[int], number: int) -> int:
    asked.append(number)
    return 0


def _table_like(table: int, replaced: Mapping[int, int | None]) -> "ctypes.Array[ctypes.c_void_p]":
    """Returns a copy of a table of virtual functions, its header included, with some replaced."""
    words = (ctypes.c_void_p * (HEADER + FUNCTIONS))()
    ctypes.memmove(words, table - HEADER * WORD_BYTES, ctypes.sizeof(words))
    for number, address in replaced.items():
        words[HEADER + number] = address
    return words


def _returns_zero() -> int | None:
    """Returns the address of a function that returns 0, whatever it is called with.

    It must not be one of Python's: it is called while errors of Python are on their way. The C
    library's `fegetround` takes nothing, and returns 0 for rounding to the nearest number.
    """
    return _address(ctypes.CDLL(None).fegetround)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def _found(name: str, look_up: Callable[[ctypes.CDLL], Any]) -> Any:
    """Returns what a library of torch has under a name.

    Raises:
        WorkloadError: It is not there.
    """
    ending = "dylib" if sys.platform == "darwin" else "so"
    library = Path(torch.__file__).parent / "lib" / f"lib{name}.{ending}"
    try:
        return look_up(ctypes.CDLL(str(library)))
    except (OSError, ValueError, AttributeError) as error:
        raise _cannot(str(error)) from error


def _cannot(reason: str) -> WorkloadError:
    return WorkloadError(
        f"torch {torch.__version__} here cannot estimate for a GPU ({reason}). Install its release "
        "for Linux; a GPU is not needed."
    )
