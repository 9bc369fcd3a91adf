"""One rebuild of the plan in the step under way: what was captured of it, and what is dropped.

[Note: what a recipe relies on] A recipe is run again where the step no longer is where it was. So
it must be known of each storage that it touches what its ops have found and left there. Every op
that writes such a storage is counted, whoever runs it and through whatever view:

- What the recipe has made must have been written by its own ops only, between the first of them
  that touches it and the last. Else an op has been left out.
- What it reads in place must not have been written since, nor be freed. Until the drop such a write
  means that nothing is dropped. After it, everything comes back before the write is done, and the
  storages read in place are held, which the plan has alive until then anyway.

So whatever the step does, what is not sure to be rebuilt to the same bytes is not dropped.
"""

from collections.abc import Callable, Collection, Iterable

import torch

from planner.plan.plan import Rebuild
from runtime.recompute.captured_op import CapturedOp
from runtime.recompute.noted_storage import NotedStorage
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError


class LiveRecipe:
    """The ops of one rebuild that this step has run, and what they are to fill again.

    Attributes:
        rebuild: What the plan says.
        fault: Why it cannot be relied on; None so far.
        ops: The ops captured, in program order.
    """

    def __init__(self, rebuild: Rebuild) -> None:
        self.rebuild = rebuild
        self.fault: str | None = None
        self.ops: tuple[CapturedOp, ...] = ()
        # How often each storage had been written when an op of the recipe last touched it.
        self._writes: dict[NotedStorage, int] = {}
        self._made: frozenset[NotedStorage] = frozenset()
        self._dropped: dict[NotedStorage, TrackedStorage] = {}
        self._held: dict[NotedStorage, torch.UntypedStorage] = {}

    def add(self, number: int, op: CapturedOp) -> None:
        """Adds the op of a number that has just run, unless it does not fit."""
        self.fault = self.fault or self._misfit(number, op)
        if self.fault is not None:
            return
        self._made |= op.made
        self._writes |= {storage: storage.writes for storage in op.touched}
        # Last: what an interrupt leaves half done is an op that was not captured.
        self.ops = (*self.ops, op)

    @property
    def holds(self) -> bool:
        """Whether it holds anything for what it fills."""
        return bool(self._held or self._dropped)

    def needs(self, storage: NotedStorage) -> bool:
        """Whether something is dropped that could not be rebuilt were this storage written."""
        return storage in self._held

    def hold(self, noted: NotedStorage | None, tracked: TrackedStorage, slot: int) -> None:
        """Keeps what is needed to rebuild a storage that is dropped at a slot's anchor next.

        Raises:
            UnmovableError: It would not be the same then.
        """
        fault = self.fault or self._lack(slot)
        if noted is None or noted not in self._made:
            fault = fault or "no captured op has made it"
        elif self._was_written(noted):
            fault = fault or "an op wrote it that is not in its recipe"
        held = self._read_in_place(self.ops)
        if fault is not None or held is None:
            raise UnmovableError(fault or "what its recipe reads was freed or written")
        assert noted is not None
        self._held = held
        self._dropped = {**self._dropped, noted: tracked}

    def missing(self) -> dict[NotedStorage, TrackedStorage]:
        """Returns what is dropped, and has not been freed."""
        return {
            noted: tracked
            for noted, tracked in self._dropped.items()
            # It may be another recipe by now that is to fill it again, after a write.
            if not self._was_written(noted)
            if tracked.residency is Residency.DROPPED and tracked.storage is not None
        }

    def ops_for(self, wanted: Collection[NotedStorage]) -> tuple[CapturedOp, ...]:
        """Returns the ops that fill some storages again: all, if that is all there is to fill."""
        if len(wanted) == len(self.rebuild.drops) and len(self.ops) == len(self.rebuild.ops):
            return self.ops
        needed, found = set(wanted), []
        for op in reversed(self.ops):
            if needed & (op.made | op.written):
                needed |= op.used
                found.append(op)
        return tuple(reversed(found))

    def why_not_now(
        self, ops: Iterable[CapturedOp], is_forbidden: Callable[[torch.UntypedStorage], bool]
    ) -> str | None:
        """Says why ops cannot be run again now; None if they can.

        Args:
            ops: Some of the recipe's.
            is_forbidden: Whether a storage is not there, or moving.
        """
        found = self._read_in_place(ops)
        if found is None:
            return "what its recipe reads was freed or written"
        absent = [storage for storage in found.values() if is_forbidden(storage)]
        return "what its recipe reads is away" if absent else None

    def let_go(self) -> None:
        """Nothing of it is dropped any more."""
        self._held = {}
        self._dropped = {}

    def why_incomplete(self) -> str | None:
        """Says why not all of its ops have been captured; None if they have."""
        return self.fault or self._lack(self.rebuild.slot)

    def _misfit(self, number: int, op: CapturedOp) -> str | None:
        if number != len(self.ops):
            return "an op of its recipe was not captured"
        for storage in op.touched & self._writes.keys():
            # An op that is about to write a storage has been counted already.
            if storage.writes != self._writes[storage] + (storage in op.written):
                return f"an op that is not in its recipe wrote what {op.name} uses"
        if op.written - self._made:
            return f"{op.name} writes what its recipe has not made"
        return None

    def _lack(self, slot: int) -> str | None:
        """Says what of its ops before a slot has not been captured."""
        for planned in self.rebuild.ops[len(self.ops) :]:
            if planned.slot < slot:
                return f"{planned.name} of its recipe did not run as planned"
        return None

    def _was_written(self, storage: NotedStorage) -> bool:
        return storage.writes != self._writes[storage]

    def _read_in_place(
        self, ops: Iterable[CapturedOp]
    ) -> dict[NotedStorage, torch.UntypedStorage] | None:
        """Returns what ops read where it is; None if one is not as they found it."""
        found: dict[NotedStorage, torch.UntypedStorage] = {}
        for tensor in [tensor for op in ops for tensor in op.handed]:
            noted = tensor.storage
            if noted in self._made:
                continue
            storage = noted.storage
            if storage is None or self._was_written(noted) or tensor.was_written:
                return None
            found[noted] = storage
        return found
