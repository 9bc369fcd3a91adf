"""What is guarded between two steps: the storages that are away, and no others."""

from collections.abc import Callable

import pytest
import torch

from runtime.replay.between_steps import BoundaryGuard

USES: dict[str, Callable[[torch.Tensor], object]] = {
    "an op": torch.sum,
    "a method": torch.Tensor.tolist,
    "its address": lambda values: values.data_ptr(),
}


class Moved:
    """The record of a storage; of one that has died, nothing is held as it."""

    def __init__(self, storage: torch.UntypedStorage, *, lives: bool) -> None:
        self.cdata = storage._cdata
        self._storage = storage if lives else None

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        return storage is not None and storage is self._storage

    def forget_copy(self) -> None:
        """There is none."""


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("use", USES)
def test_a_storage_at_the_address_of_one_that_died_is_not_guarded(use: str, lives: bool) -> None:
    """To take it for the other would bring everything back, where there may be no room for it."""
    restored: list[str] = []
    guard = BoundaryGuard(lambda: None, restored.append)
    values = torch.arange(4.0)
    guard.enter([Moved(values.untyped_storage(), lives=lives)])
    try:
        USES[use](values)
        guard.look_at(values.untyped_storage())
    finally:
        guard.leave()
    assert bool(restored) is lives
