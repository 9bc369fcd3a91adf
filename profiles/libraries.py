"""Libraries that take another course when they meet a fake tensor, and what keeps them from it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer
from torch.utils import _foreach_utils

TRANSFORMERS = "transformers.utils.import_utils"


@contextmanager
def not_taken_for_tracing() -> Iterator[None]:
    """Keeps transformers from compiling's way of making masks.

    It takes a fake tensor as a sign of being compiled, and then always makes an attention mask,
    where a step that is run looks at the positions and finds that it needs none.
    """
    module = sys.modules.get(TRANSFORMERS)
    before = getattr(module, "is_fake_tensor", None)
    if before is None:
        yield
        return
    setattr(module, "is_fake_tensor", lambda tensor: False)  # noqa: B010  # it has no types
    try:
        yield
    finally:
        setattr(module, "is_fake_tensor", before)  # noqa: B010


@contextmanager
def foreach_allowed() -> Iterator[None]:
    """Lets optimizers and gradient clipping handle fake tensors many at a time, as real ones.

    They do so only for the tensor types they list.
    """
    lists: tuple[list[Any], ...] = (
        optimizer._foreach_supported_types,
        _foreach_utils._foreach_supported_types,
    )
    for types in lists:
        types.append(FakeTensor)
    try:
        yield
    finally:
        for types in lists:
            types.remove(FakeTensor)
