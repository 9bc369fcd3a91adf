"""What lets a fake step for a GPU run where there is none, by the kernels it would choose."""

import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from profiles.estimating.fake_tensors import replaced
from profiles.schema.errors import WorkloadError

CUDA = 1  # c10::DeviceType::CUDA
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry
HOOKS = "_ZN2at6detail12getCUDAHooksEv"  # at::detail::getCUDAHooks()
FUNCTIONS = 64  # Virtual functions of an object, at most.
HEADER = 2  # Words before the functions in a table of them.
WORD_BYTES = ctypes.sizeof(ctypes.c_void_p)

FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_LARGEST_HEAD = 256
HEAD_MULTIPLE, MASK_MULTIPLE = 8, 16
"""Heads and masks are padded to multiples of these, as torch does."""

_Function = ctypes.CFUNCTYPE(ctypes.c_int)


@contextmanager
def cuda_pretended() -> Iterator[None]:
    """Lets fake tensors on `cuda` be trained, with autocast and GradScaler, on any machine.

    Raises:
        WorkloadError: This build of torch cannot.
    """
    if not torch.cuda.is_available():
        _provide_guard()
    with (
        nullcontext() if torch.cuda.is_available() else _unbuilt(),
        replaced(torch.cuda.amp.common, amp_definitely_not_available=lambda: False),
        replaced(torch.cuda, is_bf16_supported=lambda including_emulation=True: True),
        # One thread runs backward: the engine's device threads are those of devices that exist.
        torch.autograd.set_multithreading_enabled(False),
    ):
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

    def note(number: int) -> int:
        asked.append(number)
        return 0

    noting = [_Function(partial(note, number)) for number in range(FUNCTIONS)]
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


class CudaAttention(TorchFunctionMode):
    """Calls the fused kernels that torch would choose on a GPU, for fake tensors.

    [Note: the choice of attention] torch asks the device's properties, which are not there. The
    rules here are those of `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp` as far as they
    can be followed: flash attention for half precision without a mask and with heads of up to 256,
    otherwise the memory-efficient kernel. On Hopper torch may prefer cuDNN's kernel, and before
    Ampere it has no flash attention; all of them keep the output and one number per row for
    backward, so storages hardly differ. Nothing is done for other devices.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            # Without a dimension for heads torch takes no fused kernel.
            if query.device.type == "cuda" and query.dim() == 4:
                return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = (t.repeat_interleave(groups, dim=-3) for t in (key, value))
    head = query.size(-1)
    scale = 1 / math.sqrt(head) if scale is None else scale
    flash = attn_mask is None and query.dtype in FLASH_DTYPES and head <= FLASH_LARGEST_HEAD
    query, key, value = (_padded(t, HEAD_MULTIPLE) for t in (query, key, value))
    if flash:
        result = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    else:
        bias = None if attn_mask is None else _bias(attn_mask, query, key)
        trains = query.requires_grad or key.requires_grad or value.requires_grad
        result = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, trains, dropout_p, is_causal, scale=scale
        )[0]
    return result if result.size(-1) == head else result[..., :head]


def _padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    missing = -tensor.size(-1) % multiple
    return functional.pad(tensor, (0, missing)) if missing else tensor


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Turns a mask into what is added to the scores, for every head."""
    if mask.dtype is torch.bool:
        zeros = torch.zeros_like(mask, dtype=query.dtype)
        mask = zeros.masked_fill_(mask.logical_not(), -math.inf)
    length = key.size(-2)
    mask = _padded(mask, MASK_MULTIPLE)[..., :length]
    return mask.expand(query.size(0), query.size(1), query.size(2), length)
