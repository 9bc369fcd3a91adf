"""A plan's swaps by storage: what moves, how it is found, and how its swaps follow each other.

[Note: entering the steady state] A plan with swaps that wrap is a cycle: each step finds storages
where the one before left them. Before the first step, and whenever everything was brought back,
all are resident instead. So a step begins with a prologue that does what the step before would have
done: what the plan has away is sent away, what it has on its way out is issued, and what it has on
its way back is there already, so the rest of that swap is left out. The prologue comes before the
budget is enforced, since until then everything was resident.

[Note: clean swaps] A clean swap copies nothing, because the copy that the swap before left on the
host is still true. The plan knows every write of the recorded step. It does not know whether that
earlier swap was made this time, or whether code wrote in between that was not recorded. So each
record says whether its host copy is true, and a clean swap that finds none copies after all. A copy
stops being true when its storage is restored, when an op of a step writes the storage, and when
it is touched between two steps. Before it is relied on, the version of the tensor and the mark on
the storage are looked at, too (`runtime.storage.write_marks`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from planner.plan.plan import Plan, PlannedStorage, Swap
from planner.plan.schedule import Action, ActionKind
from profiles.hooks.named_storages import Owned, owned_storages
from profiles.recording.device import device_of
from profiles.schema.link import CopyMethod
from profiles.schema.profile import PACK, StorageKind
from runtime.replay.lookup import Lookup, Lookups, storage_of
from runtime.storage.residency import Residency, UnmovableError


@dataclass(frozen=True, slots=True)
class IndexedStorage:
    """A storage that the plan moves, or that one of its anchors shows.

    Attributes:
        name: Its name.
        size_bytes: Its bytes on the device.
        host_bytes: Its bytes in the host pool.
        method: What carries its copies.
        at_boundary: Where it is when a step ends and the next begins.
        lookup: Finds its tensor if the model or the optimizer owns it; None for an activation.
        count_writes: Counts its writes that autograd sees; None likewise.
    """

    name: str
    size_bytes: int
    host_bytes: int
    method: CopyMethod
    at_boundary: Residency
    lookup: Lookup | None
    count_writes: Callable[[], int] | None


class SwapIndex:
    """What a plan wants of each storage, and where the model and the optimizer have it.

    Attributes:
        storages: All that move or are shown, by id.
        moved: Ids of those that move, or are dropped and rebuilt.
        swap_count: How many swaps there are.
        device: Where the model is.
        lookups: How to find those that move and are owned, by id.
        wrapping: Swaps that are under way at the boundary, in order of swap-out.
    """

    def __init__(
        self, plan: Plan, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        by_storage = _swaps_by_storage(plan)
        dropped = (drop.storage for rebuild in plan.rebuilds for drop in rebuild.drops)
        self.moved = frozenset([*by_storage, *dropped])
        self.swap_count = len(plan.swaps)
        self.device = device_of(model)
        self.wrapping = tuple(swap for swap in plan.swaps if swap.wraps)
        boundary = {swap.storage: _residency_at_boundary(swap) for swap in self.wrapping}
        sizes_bytes, methods = plan.host_sizes_bytes, plan.engines
        owners = Lookups(model, optimizer)

        def indexed(storage: PlannedStorage) -> IndexedStorage:
            is_owned = storage.id in by_storage and not storage.name.startswith(PACK)
            return IndexedStorage(
                name=storage.name,
                size_bytes=storage.size_bytes,
                host_bytes=sizes_bytes[storage.id],
                method=methods.get(storage.id, CopyMethod.DMA),
                at_boundary=boundary.get(storage.id, Residency.RESIDENT),
                lookup=owners.find(storage.name) if is_owned else None,
                count_writes=owners.count_writes(storage.name) if is_owned else None,
            )

        self.storages = {storage.id: indexed(storage) for storage in plan.storages}
        self.lookups: dict[int, Lookup] = {
            storage_id: storage.lookup
            for storage_id, storage in self.storages.items()
            if storage.lookup is not None
        }
        found_at_begin = (StorageKind.OPTIMIZER_STATE, StorageKind.BUFFER)
        self._lasting = boundary.keys() | {
            storage.id
            for storage in plan.storages
            if storage.id in self.lookups and storage.kind in found_at_begin
        }
        self._model, self._optimizer = model, optimizer
        self._parameters = dict(model.named_parameters())
        self._from = {(swap.storage, swap.swap_out_slot): swap for swap in plan.swaps}
        self._last_uses_of_copy = {
            (swap.storage, swap.await_slot)
            for swaps in by_storage.values()
            for swap, following in zip(swaps, [*swaps[1:], swaps[0]], strict=True)
            if not following.clean
        }

    def owned(self) -> tuple[Owned, ...]:
        """Returns what the model and the optimizer hold now."""
        return owned_storages(self._model, self._optimizer)

    def missing(self) -> frozenset[int]:
        """Returns ids of storages that the plan finds when a step begins, and that are not made."""
        return frozenset(i for i in self._lasting if storage_of(self.lookups[i]()) is None)

    def swap_from(self, action: Action, slot: int) -> Swap | None:
        """Returns the swap that begins with an action at a slot's anchor, if one does."""
        swap = self._from.get((action.storage, slot))
        if swap is None:
            return None
        first = ActionKind.RELEASE if swap.clean else ActionKind.SWAP_OUT
        return swap if action.kind is first else None

    def needs_copy_after(self, storage_id: int, await_slot: int) -> bool:
        """Whether the swap after the one that ends at a slot is clean."""
        return (storage_id, await_slot) not in self._last_uses_of_copy

    def check_parameters(self) -> None:
        """Checks that the model still has the parameters whose anchors are known.

        Raises:
            UnmovableError: One was replaced. What it replaced may still be alive, too.
        """
        for name, parameter in self._model.named_parameters():
            if self._parameters.get(name) is not parameter:
                raise UnmovableError(
                    f"parameter {name!r} was replaced since the plan was attached, attach it again"
                )


def _residency_at_boundary(swap: Swap) -> Residency:
    """What comes at an earlier slot than the swap-out comes in the next step."""
    if swap.release_slot < swap.swap_out_slot:
        return Residency.LEAVING
    return Residency.AWAY if swap.swap_in_slot < swap.swap_out_slot else Residency.RETURNING


def _swaps_by_storage(plan: Plan) -> dict[int, list[Swap]]:
    swaps: dict[int, list[Swap]] = {}
    for swap in sorted(plan.swaps, key=lambda swap: swap.swap_out_slot):
        swaps.setdefault(swap.storage, []).append(swap)
    return swaps
