"""Memory lent to an array, a file or another process: it cannot be moved as long as it is.

[Note: memory lent to an array] `tensor.numpy()` gives an array the tensor's own memory, and torch
never again resizes it, even when the array has long gone. So logging a weight between two steps
would end its swaps for good. The storage counts its references: where the tensor that the plan
knows has the only one, its bytes are copied to memory of their own, which can be resized, and
the swaps go on. That is done only for a storage that could be moved before: memory that *came* from
an array, or from a mapped file, may be written by its owner, which would write into the wrong
place.

As long as an array is alive its storage stays on the device and is not swapped, nor is memory that
is shared with other processes. The rest of the plan goes on, if the budget allows it.
"""

import logging
import weakref

import torch

from profiles.hooks.mode_stack import unseen
from runtime.replay.lookup import storage_of
from runtime.replay.swap_index import SwapIndex
from runtime.storage.residency import TrackedStorage

LOG = logging.getLogger("swapplan")

TENSOR_AND_ITS_PYTHON_OBJECT = 2
"""References to a storage that only one tensor has, while its own Python object is held."""


class LentMemory:
    """The storages of a plan that cannot be moved now."""

    def __init__(self, index: SwapIndex) -> None:
        self._index = index
        # Those that this step keeps where they are, in the order of their swaps.
        self._kept: dict[int, None] = {}
        self._movable: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._has_warned = False

    @property
    def why_no_room(self) -> str | None:
        """What this step keeps on the device against the plan; None if that is nothing."""
        if not self._kept:
            return None
        names = ", ".join(self._index.storages[storage_id].name for storage_id in self._kept)
        return f"the memory of {names} can no longer be resized, and with it on the device"

    def take_back(self) -> None:
        """Begins a step: gives memory of their own to storages that are lent no more."""
        self._kept.clear()
        for storage_id, lookup in self._index.lookups.items():
            tensor = lookup()
            storage = storage_of(tensor)
            if tensor is None or storage is None or storage.device.type != "cpu":
                continue
            known = self._movable.get(storage_id)
            if storage.resizable():
                if known is None or known() is not storage:
                    self._movable[storage_id] = weakref.ref(storage)
            elif known is not None and known() is storage and _has_one_tensor(storage):
                _move_to_own_memory(tensor, storage)
                self._movable[storage_id] = weakref.ref(tensor.untyped_storage())

    def keeps(self, storage_id: int, tracked: TrackedStorage) -> bool:
        """Whether a storage stays where it is in this step; it is not swapped then."""
        if not tracked.is_lent:
            return False
        self._kept[storage_id] = None
        if not self._has_warned:
            self._has_warned = True
            LOG.warning(
                "%s stays on the device as long as an array, a file or another process looks at "
                "its memory: it is not swapped, the rest of the plan goes on. Logged once.",
                self._index.storages[storage_id].name,
            )
        return True


def _has_one_tensor(storage: torch.UntypedStorage) -> bool:
    return (
        not storage.is_shared()
        and torch._C._storage_Use_Count(storage._cdata) == TENSOR_AND_ITS_PYTHON_OBJECT
    )


def _move_to_own_memory(tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
    """Gives a tensor another storage with the same bytes, seen by no mode."""
    with unseen(), torch._C.DisableTorchFunction(), torch.inference_mode(tensor.is_inference()):
        own = torch.UntypedStorage(storage.nbytes(), device=storage.device)
        own.copy_(storage)
        bare = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        bare.set_(own, tensor.storage_offset(), tensor.size(), tensor.stride())
        tensor.data = bare
