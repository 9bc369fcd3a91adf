"""What is guarded between two steps: the storages that are away, and no others."""

from collections.abc import Callable

import pytest
import torch

from runtime.replay.between_steps import BoundaryGuard
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage

CPU = torch.device("cpu")
USES: dict[str, Callable[[torch.Tensor], object]] = {
    "an op": torch.sum,
    "a method": torch.Tensor.tolist,
    "its address": lambda values: values.data_ptr(),
}


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("use", USES)
def test_a_storage_at_the_address_of_one_that_died_is_not_guarded(use: str, lives: bool) -> None:
    """To take it for the other would bring everything back, where there may be no room for it."""
    restored: list[str] = []
    guard = BoundaryGuard(lambda: None, restored.append)
    values = torch.arange(4.0)
    storage = values.untyped_storage()
    moved = TrackedStorage(storage if lives else torch.UntypedStorage(4), Accountant(CPU, None))
    moved.cdata = storage._cdata
    guard.enter([moved])
    try:
        USES[use](values)
        guard.look_at(values.untyped_storage())
    finally:
        guard.leave()
    assert bool(restored) is lives
