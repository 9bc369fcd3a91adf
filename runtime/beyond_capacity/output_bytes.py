"""How many bytes an op will allocate for its results, known before it runs."""

from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map

from profiles.hooks.mode_stack import unseen

META = torch.device("meta")

RESIZES_ITS_ARGUMENT = frozenset(
    {torch.ops.aten.resize_.default, torch.ops.aten.resize_as_.default}
)


def output_sizes_bytes(
    device: torch.device, func: OpOverload, args: Any, kwargs: Any
) -> tuple[int, ...] | None:
    """Returns the sizes of what an op allocates on a device; None if they depend on its data.

    The op is run on meta tensors, which have shapes and no bytes. They are made from the arguments'
    descriptions alone: the arguments themselves may be in host memory just now, and nothing here
    may keep them alive. And no mode is entered for it, which an interrupt could leave behind.
    """
    if _allocates_nothing(func) or _is_made_elsewhere(device, func, args, kwargs):
        return ()
    # The modes that watch the step must not see this run.
    with unseen():
        try:
            described = tree_map(_described, (args, kwargs))
            if _takes_device(func):
                # What makes a tensor from nothing makes it without bytes.
                described[1]["device"] = META
            return _run(func, *described)
        except Exception:
            # What a meta kernel cannot do says nothing about the real one, whose errors are the
            # user's to see.
            return None


def _is_made_elsewhere(device: torch.device, func: OpOverload, args: Any, kwargs: Any) -> bool:
    """Whether an op is asked to make its result on another type of device."""
    leaves = tree_leaves((args, kwargs))
    named = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if named:
        return named[-1].type != device.type
    return _takes_device(func) and not _tensors(leaves) and device.type != "cpu"


def _run(func: OpOverload, args: Any, kwargs: Any) -> tuple[int, ...]:
    inputs = [tensor.untyped_storage() for tensor in _tensors((args, kwargs))]
    before = {storage: storage.nbytes() for storage in inputs}
    made = [tensor.untyped_storage() for tensor in _tensors(func(*args, **kwargs))]
    after = {storage: storage.nbytes() for storage in (*made, *inputs)}
    grown = [size_bytes - before.get(storage, 0) for storage, size_bytes in after.items()]
    return tuple([size_bytes for size_bytes in grown if size_bytes > 0])


def _described(leaf: Any) -> Any:
    """A meta tensor for a tensor; meta kernels draw no numbers, and know no real generator."""
    if isinstance(leaf, torch.Generator):
        return None
    if isinstance(leaf, torch.device):
        return META
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=META)


# Lists here, not generators that end early: Python swallows an interrupt while it closes one.


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@cache
def _takes_device(func: OpOverload) -> bool:
    return "device" in [argument.name for argument in func._schema.arguments]


@cache
def _allocates_nothing(func: OpOverload) -> bool:
    """Whether all that an op returns is what it was given, or no tensor at all."""
    outs = [argument for argument in func._schema.arguments if argument.is_out]
    made = [
        value
        for value in func._schema.returns
        if value.alias_info is None and "Tensor" in str(value.type)
    ]
    return not made and not outs and func not in RESIZES_ITS_ARGUMENT
