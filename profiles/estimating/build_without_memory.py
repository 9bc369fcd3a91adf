"""Building a model that is larger than memory.

[Note: tensors without memory] Some models cannot be built from fake or meta tensors: their
initialisers ask for values (`.item()`), change dtypes in place, tie weights. So a builder runs with
real tensors on the CPU, but nothing ever writes to the large ones. The operating system gives a
page of memory to an allocation when it is first written, so a large tensor costs address space and
nothing else. Small tensors are computed as usual; what is computed from a large one is zero.
"""

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from profiles.estimating.fake_tensors import replaced
from profiles.hooks.dispatch import tensors_in
from profiles.hooks.workload import Workload
from profiles.schema.profile import CPU, CUDA

LARGE_BYTES = 1 << 20
"""Tensors from this size on are never written."""


def build_without_memory(
    build: Callable[[], Workload], device: torch.device
) -> tuple[Workload, list[torch.Tensor]]:
    """Builds a workload on the CPU without giving memory to its large tensors.

    The device is the default one meanwhile, and what the builder may think is there; tensors are on
    the CPU all the same. Returned, too, is every tensor made by building that is still held: those
    of the model, and batches that the step keeps.
    """
    before = _tensors()
    known = set(map(id, before))
    with ExitStack() as around:
        around.enter_context(_WithoutMemory())
        if device.type != CPU:
            # A builder may choose the device: as it would on the machine of the estimate.
            pretending_cuda = replaced(torch.cuda, is_available=lambda: True)
            for context in (pretending_cuda, _CpuInstead(), device):
                around.enter_context(context)
        workload = build()
    return workload, [tensor for tensor in _tensors() if id(tensor) not in known]


def _tensors() -> list[torch.Tensor]:
    # The type is asked, not the object: proxies would answer for what they stand for.
    return [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]


class _WithoutMemory(TorchDispatchMode):
    """Runs small ops, and only allocates what large ones would write."""

    def __init__(self) -> None:
        super().__init__()
        self._fake_mode = FakeTensorMode()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [tensor for tensor, _ in tensors_in(func, args, kwargs)]
        small = tensors and not any(map(_is_large, tensors))
        # An op that draws a picture larger may write much where it reads little.
        if _only_describes(func) or (small and "upsample" not in func._schema.name):
            return func(*args, **kwargs)
        try:
            return self._allocate_results(func, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return func(*args, **kwargs)

    def _allocate_results(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Finds the shapes of the results by a fake run, and allocates them."""
        real_of: dict[int, torch.Tensor] = {}

        def fake_of(tensor: torch.Tensor) -> torch.Tensor:
            fake = torch.empty_strided(
                tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device
            )
            real_of[id(fake)] = tensor
            return fake

        with self._fake_mode:
            fake_args, fake_kwargs = tree_map_only(torch.Tensor, fake_of, (args, kwargs))
            result = func(*fake_args, **fake_kwargs)
        if not any(map(_is_large, (*real_of.values(), result))):
            return func(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda out: _real(out, real_of), result)


def _real(fake: torch.Tensor, real_of: dict[int, torch.Tensor]) -> torch.Tensor:
    if id(fake) in real_of:
        # An op in place returns the tensor it was given.
        return real_of[id(fake)]
    real = torch.empty_strided(fake.size(), fake.stride(), dtype=fake.dtype)
    return real if _is_large(real) else real.zero_()


def _is_large(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.nbytes >= LARGE_BYTES


def _only_describes(func: OpOverload) -> bool:
    """Whether an op reads and writes no element: a view, or an allocation."""
    in_place_view = torch.Tag.inplace_view in func.tags
    return func.is_view or in_place_view or "empty" in func._schema.name


class _CpuInstead(TorchFunctionMode):
    """Puts on the CPU what is sent to another device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        kwargs = {key: _cpu_instead(value) for key, value in (kwargs or {}).items()}
        return func(*map(_cpu_instead, args), **kwargs)


def _cpu_instead(value: Any) -> Any:
    names_cuda = isinstance(value, str) and value.partition(":")[0] == CUDA
    return torch.device(CPU) if names_cuda or isinstance(value, torch.device) else value
