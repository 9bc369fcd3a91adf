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
from runtime.recompute.captured_ops import CapturedOps, SlotOp, found_by_name
from runtime.recompute.noted_storage import NotedStorage
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError


class LiveRecipe:
    """The ops of one rebuild that this step has run, and what they are to fill again.

    Attributes:
        rebuild: What the plan says.
        captured: Its ops that have run.
    """

    def __init__(self, rebuild: Rebuild) -> None:
        self.rebuild = rebuild
        self.captured = CapturedOps()
        self._offered: list[SlotOp] = []
        self._dropped: dict[NotedStorage, TrackedStorage] = {}
        self._held: dict[NotedStorage, torch.UntypedStorage] = {}

    def add(self, number: int, op: CapturedOp) -> None:
        """Adds the op of a number that has just run, unless it does not fit."""
        if number == len(self.captured.ops):
            self.captured.add(op)
        else:
            self.fail("an op of its recipe was not captured")

    def offer(self, slot: int, op: CapturedOp) -> None:
        """Keeps an op that may be one of its own; see `runtime.recompute.captured_ops`."""
        self._offered.append((slot, op))

    def fail(self, fault: str) -> None:
        """It cannot be relied on in this step."""
        self.captured.fault = self.captured.fault or fault

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
        captured = self._captured_for(noted)
        fault = captured.fault or self._lack(slot)
        if noted is None or noted not in captured.made:
            fault = fault or "no captured op has made it"
        elif captured.was_written(noted):
            fault = fault or "an op wrote it that is not in its recipe"
        held = captured.read_in_place(captured.ops)
        if fault is not None or held is None:
            raise UnmovableError(fault or "what its recipe reads was freed or written")
        assert noted is not None
        self.captured = captured
        self._held = held
        self._dropped = {**self._dropped, noted: tracked}

    def missing(self) -> dict[NotedStorage, TrackedStorage]:
        """Returns what is dropped, and has not been freed."""
        return {
            noted: tracked
            for noted, tracked in self._dropped.items()
            # It may be another recipe by now that is to fill it again, after a write.
            if not self.captured.was_written(noted)
            if tracked.residency is Residency.DROPPED and tracked.storage is not None
        }

    def ops_for(self, wanted: Collection[NotedStorage]) -> tuple[CapturedOp, ...]:
        """Returns the ops that fill some storages again: all, if that is all there is to fill."""
        ops = self.captured.ops
        if len(wanted) == len(self.rebuild.drops) and len(ops) == len(self.rebuild.ops):
            return ops
        return self.captured.for_storages(wanted)

    def why_not_now(
        self, ops: Iterable[CapturedOp], is_forbidden: Callable[[torch.UntypedStorage], bool]
    ) -> str | None:
        """Says why ops cannot be run again now; None if they can.

        Args:
            ops: Some of the recipe's.
            is_forbidden: Whether a storage is not there, or moving.
        """
        found = self.captured.read_in_place(ops)
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
        return self.captured.fault or self._lack(self.rebuild.slot)

    def _captured_for(self, noted: NotedStorage | None) -> CapturedOps:
        """Returns its ops, found by what they have made if they were offered."""
        if not self._offered or noted is None:
            return self.captured
        found = found_by_name(self.rebuild.ops, self._offered, {*self._dropped, noted})
        if not set(self.captured.ops) <= set(found.ops):
            found.fault = found.fault or "its ops are not those that were found before"
        return found

    def _lack(self, slot: int) -> str | None:
        """Says what of its ops before a slot has not been captured."""
        if self._offered:
            # There may be ops for what is dropped later, which are not looked for yet.
            return None
        for planned in self.rebuild.ops[len(self.captured.ops) :]:
            if planned.slot < slot:
                return f"{planned.name} of its recipe did not run as planned"
        return None
