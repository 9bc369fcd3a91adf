"""How many bytes an op will allocate for its results, known before it runs."""

from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from profiles.dispatch import storages_of

RESIZES_ITS_ARGUMENT = frozenset(
    {torch.ops.aten.resize_.default, torch.ops.aten.resize_as_.default}
)


class OutputBytes:
    """Runs ops on fake tensors, which have shapes and no bytes.

    The fakes are made from the arguments' descriptions alone: the arguments themselves may be in
    host memory just now, and nothing here may keep them alive.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Where torch cannot tell shapes it would run the op on real tensors, made for that on the
        # very device that has no room.
        self._fakes = FakeTensorMode(allow_fallback_kernels=False)

    def of(self, func: OpOverload, args: Any, kwargs: Any) -> int | None:
        """Returns the bytes an op allocates for its results.

        Returns:
            The bytes; None if nobody can say before the op runs, because they depend on its data.
        """
        if _allocates_nothing(func):
            return 0
        # The modes that watch the step must not see the fake op.
        with _disable_current_modes(), self._fakes:
            try:
                return self._run(func, *tree_map(self._fake, (args, kwargs)))
            except Exception:
                # What a fake kernel cannot do says nothing about the real one, whose errors are
                # the user's to see.
                return None

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> int:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
        before = {tensor.untyped_storage(): tensor.untyped_storage().nbytes() for tensor in inputs}
        result = func(*args, **kwargs)
        after = {storage: storage.nbytes() for storage in storages_of([result, *inputs])}
        elsewhere = {
            tensor.untyped_storage()
            for tensor in tree_leaves(result)
            if isinstance(tensor, FakeTensor) and tensor.device.type != self._device.type
        }
        return sum(
            max(0, size_bytes - before.get(storage, 0))
            for storage, size_bytes in after.items()
            if storage not in elsewhere
        )

    def _fake(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Generator):
            # Fake ops draw no numbers, and know no generator of a real device.
            return None
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)


def _allocates_nothing(func: OpOverload) -> bool:
    """Whether all that an op returns is what it was given, or no tensor at all."""
    if func in RESIZES_ITS_ARGUMENT or any(a.is_out for a in func._schema.arguments):
        return False
    return all(
        value.alias_info is not None or "Tensor" not in str(value.type)
        for value in func._schema.returns
    )
