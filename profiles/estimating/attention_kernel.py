"""Which kernel `scaled_dot_product_attention` would choose on a GPU that is not there."""

import math
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_LARGEST_HEAD = 256
HEAD_MULTIPLE = 8
"""Heads are padded to multiples of this, as torch does."""
MASK_MULTIPLE = 16


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
        if func is functional.scaled_dot_product_attention and args[0].device.type == "cuda":
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
        result = torch.ops.aten._scaled_dot_product_efficient_attention(
            query,
            key,
            value,
            None if attn_mask is None else _bias(attn_mask, query, key),
            query.requires_grad or key.requires_grad or value.requires_grad,
            dropout_p,
            is_causal,
            scale=scale,
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
