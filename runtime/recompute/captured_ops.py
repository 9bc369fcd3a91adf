"""The ops of one recipe that the step under way has run, and what they rely on.

[Note: steps of another course] Which ops a recipe is made of is known by where they stand, and the
first step of a training takes another course in places: gradients are made where later steps add
to them or fill them with zeros, and states are made. There, an op that has the name of a planned
one in its slot may or may not be that one. It is if it has made or written what is dropped, or what
a later op of the recipe uses. So in a first step all such ops are noted, and those of a recipe are
found among them from the last to the first, when what they fill is dropped. Nothing else depends on
where ops stand: whatever ops a recipe consists of, what it fills is only dropped if they, and no
others, have written it, and find again what they have read.
"""

from collections.abc import Collection, Iterable, Sequence

import torch

from planner.plan.plan import RecipeOp
from runtime.recompute.captured_op import CapturedOp
from runtime.recompute.noted_storage import NotedStorage

SlotOp = tuple[int, CapturedOp]
"""An op and the slot that it ran in."""


class CapturedOps:
    """Ops in program order.

    Attributes:
        ops: The ops.
        made: Storages that they have made.
        fault: Why they cannot be relied on; None so far.
    """

    def __init__(self, ops: Iterable[CapturedOp] = ()) -> None:
        self.ops: tuple[CapturedOp, ...] = ()
        self.made: set[NotedStorage] = set()
        self.fault: str | None = None
        # How often each storage had been written when one of them last touched it.
        self._writes: dict[NotedStorage, int] = {}
        for op in ops:
            self.add(op)

    def add(self, op: CapturedOp) -> None:
        """Adds an op that ran after the others, unless it does not fit."""
        self.fault = self.fault or self._misfit(op)
        if self.fault is not None:
            return
        self.made.update(op.made)
        self._writes.update(zip(op.touched, op.writes, strict=True))
        # Last: what an interrupt leaves half done is an op that was not captured.
        self.ops = (*self.ops, op)

    def was_written(self, storage: NotedStorage) -> bool:
        """Whether a storage that they touch was written since."""
        return storage.writes != self._writes[storage]

    def read_in_place(
        self, ops: Iterable[CapturedOp]
    ) -> dict[NotedStorage, torch.UntypedStorage] | None:
        """Returns what some of them read where it is; None if one is not as they found it."""
        found: dict[NotedStorage, torch.UntypedStorage] = {}
        for op in ops:
            for tensor in op.handed:
                noted = tensor.storage
                if noted in self.made:
                    continue
                storage = noted.storage
                if storage is None or self.was_written(noted) or tensor.was_written:
                    return None
                found[noted] = storage
        return found

    def for_storages(self, wanted: Iterable[NotedStorage]) -> tuple[CapturedOp, ...]:
        """Returns those that fill some storages again."""
        needed, found = set(wanted), []
        for op in reversed(self.ops):
            if _fills(op, needed):
                needed.update(op.used)
                found.append(op)
        return tuple(reversed(found))

    def _misfit(self, op: CapturedOp) -> str | None:
        for storage, writes in zip(op.touched, op.writes, strict=True):
            found = self._writes.get(storage)
            # An op that writes a storage has been counted.
            if found is not None and writes != found + (storage in op.written):
                return f"an op that is not in its recipe wrote what {op.kind.name} uses"
        if op.written and not self.made.issuperset(op.written):
            return f"{op.kind.name} writes what its recipe has not made"
        return None


def found_by_name(
    planned: Sequence[RecipeOp], offered: Sequence[SlotOp], wanted: Collection[NotedStorage]
) -> CapturedOps:
    """Finds the planned ops that fill some storages; see [Note: steps of another course].

    Args:
        planned: The ops of a recipe.
        offered: Ops that may be of the recipe, in program order.
        wanted: The storages.
    """
    needed, chosen = set(wanted), set[int]()
    for op in reversed(planned):
        for number in reversed(range(len(offered))):
            slot, one = offered[number]
            is_such = slot == op.slot and one.kind.name == op.name and number not in chosen
            if is_such and _fills(one, needed):
                chosen.add(number)
                needed.update(one.used)
                break
    return CapturedOps([offered[number][1] for number in sorted(chosen)])


def _fills(op: CapturedOp, storages: set[NotedStorage]) -> bool:
    return not storages.isdisjoint((*op.made, *op.written))
