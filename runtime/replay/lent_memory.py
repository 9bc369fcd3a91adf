"""Memory that somebody else looks at: it cannot be moved as long as they do.

[Note: memory lent to an array] `tensor.numpy()` gives an array the tensor's own memory, and torch
never again resizes it, even when the array has long gone. So logging a weight between two steps
would end its trips for good. The storage counts who refers to it: where that is nobody but the
tensor that the plan knows, its bytes are copied to memory of their own, which can be resized, and
the trips go on. That is done only for a storage that could be moved before: memory that *came* from
an array, or from a mapped file, may be written by its owner, who would write into the wrong place.

As long as an array is alive its storage stays on the device and makes no trips, as does memory that
is shared with other processes. The rest of the plan goes on, if the budget allows it.
"""

import logging
import weakref
from collections.abc import Mapping

import torch

from planner.plan.plan import Plan
from profiles.hooks.mode_stack import unseen
from runtime.replay.lookup import Lookup, storage_of
from runtime.storage.residency import TrackedStorage

LOG = logging.getLogger("swapplan")

TENSOR_AND_ITS_PYTHON_OBJECT = 2
"""References to a storage that only one tensor has, while its own Python object is held."""


class LentMemory:
    """The storages of a plan that cannot be moved now.

    Attributes:
        kept: Ids of those that this step keeps where they are, in the order of their trips.
    """

    def __init__(self, plan: Plan, lookups: Mapping[int, Lookup]) -> None:
        self.kept: dict[int, None] = {}
        self._plan = plan
        self._lookups = lookups
        self._movable: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._told = False

    @property
    def why_no_room(self) -> str | None:
        """What this step keeps on the device against the plan; None if that is nothing."""
        if not self.kept:
            return None
        names = ", ".join(self._plan.storage(storage_id).name for storage_id in self.kept)
        return f"the memory of {names} can no longer be resized, and with it on the device"

    def take_back(self) -> None:
        """Begins a step: gives memory of their own to storages that nobody looks at any more."""
        self.kept.clear()
        for storage_id, lookup in self._lookups.items():
            tensor = lookup()
            storage = storage_of(tensor)
            if tensor is None or storage is None or storage.device.type != "cpu":
                continue
            known = self._movable.get(storage_id)
            if storage.resizable():
                if known is None or known() is not storage:
                    self._movable[storage_id] = weakref.ref(storage)
            elif known is not None and known() is storage and _is_looked_at_by_one(storage):
                _move_house(tensor, storage)
                self._movable[storage_id] = weakref.ref(tensor.untyped_storage())

    def keeps(self, storage_id: int, tracked: TrackedStorage) -> bool:
        """Whether a storage stays where it is in this step; it makes no trip then."""
        if not tracked.is_lent:
            return False
        self.kept[storage_id] = None
        if not self._told:
            self._told = True
            LOG.warning(
                "%s stays on the device as long as an array, a file or another process looks at "
                "its memory: it makes no trips, the rest of the plan goes on. Told once.",
                self._plan.storage(storage_id).name,
            )
        return True


def _is_looked_at_by_one(storage: torch.UntypedStorage) -> bool:
    return (
        not storage.is_shared()
        and torch._C._storage_Use_Count(storage._cdata) == TENSOR_AND_ITS_PYTHON_OBJECT
    )


def _move_house(tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
    """Gives a tensor another storage with the same bytes, seen by no mode."""
    with unseen(), torch._C.DisableTorchFunction(), torch.inference_mode(tensor.is_inference()):
        own = torch.UntypedStorage(storage.nbytes(), device=storage.device)
        own.copy_(storage)
        bare = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        bare.set_(own, tensor.storage_offset(), tensor.size(), tensor.stride())
        tensor.data = bare
