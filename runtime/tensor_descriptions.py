"""Functions that tell or change what a tensor is and need none of its bytes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

_READ = (
    *("_backward_hooks", "_base", "_cdata", "_grad_fn", "_has_symbolic_sizes_strides"),
    *("_post_accumulate_grad_hooks", "_python_dispatch", "_version", "device", "dtype"),
    *("grad", "grad_dtype", "grad_fn", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_mkldnn"),
    *("is_mps", "is_mtia", "is_nested", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan"),
    *("is_xla", "is_xpu", "itemsize", "layout", "name", "nbytes", "ndim", "output_nr"),
    *("requires_grad", "retains_grad", "shape"),
)
_WRITTEN = ("_backward_hooks", "grad", "requires_grad")
_METHODS = (
    *("__len__", "dim", "element_size", "get_device", "is_complex", "is_contiguous"),
    *("is_floating_point", "ndimension", "nelement", "numel", "register_hook"),
    *("register_post_accumulate_grad_hook", "requires_grad_", "retain_grad", "size"),
    *("storage_offset", "stride"),
)
_FUNCTIONS = ("is_complex", "is_floating_point", "numel")


def _functions() -> Iterator[Callable[..., Any]]:
    """Yields them as torch names them to a mode; those this version of torch has."""
    for names, method in ((_READ, "__get__"), (_WRITTEN, "__set__"), (_WRITTEN, "__delete__")):
        for name in names:
            if hasattr(torch.Tensor, name):
                yield getattr(getattr(torch.Tensor, name), method)
    yield from (getattr(torch.Tensor, name) for name in _METHODS)
    yield from (getattr(torch, name) for name in _FUNCTIONS)


DESCRIBING = frozenset(_functions())
"""See the module."""
