"""Moves the storages of one model as a plan says: one action at a time, and at the step's ends.

What moves when is the schedule's business, and what to do if it fails is the replay's. Here is
known which storage a plan means, where each is, and which trips are not made this time.
"""

from itertools import count

import torch

from planner.plan.plan import Plan, Swap
from planner.plan.schedule import Action, ActionKind
from profiles.schema.link import CopyMethod
from profiles.schema.profile import StorageKind
from runtime.host.host_pool import HostPool
from runtime.replay.backend import Backend
from runtime.replay.cyclic_swaps import CyclicSwap, CyclicSwaps
from runtime.replay.first_step import FirstStep
from runtime.replay.lent_memory import LentMemory
from runtime.replay.lookup import lookups, storage_of, write_counts
from runtime.replay.statistics import StepStatistics
from runtime.storage.accountant import Accountant
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError
from runtime.storage.write_marks import LostWriteError, WriteMarks


class SwapExecutor:
    """The storages that a plan moves, and where they are.

    Attributes:
        d2h: The lane to the host.
        h2d: The lane back.
        tracked: Records of those that the plan has moved, by id. Between steps: of those that are
            not resident, or have a host copy that a later trip relies on.
        left_out: Whether this step began with a storage resident that the plan has on its way back
            then, so that the rest of that trip is not made.
    """

    def __init__(
        self,
        plan: Plan,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        backend: Backend,
        accountant: Accountant,
        marks: WriteMarks,
    ) -> None:
        self.d2h, self.h2d = backend.d2h, backend.h2d
        self.tracked: dict[int, TrackedStorage] = {}
        self.left_out = False
        self._plan = plan
        self._pool = backend.pool
        self._accountant = accountant
        self._marks = marks
        self._sizes = {storage.id: storage.size_bytes for storage in plan.storages}
        self._offsets = {(s.storage, s.swap_out_slot): s.host_offset_bytes for s in plan.swaps}
        self._engines = plan.engines
        self._host_sizes = plan.host_sizes_bytes
        self._moved = frozenset(swap.storage for swap in plan.swaps)
        self._lookups = lookups(plan, model, optimizer)
        self._write_counts = write_counts(plan, model, optimizer)
        self._across = CyclicSwaps(plan)
        self._lasting = frozenset(
            storage_id
            for storage_id in self._lookups
            if plan.storage(storage_id).kind in (StorageKind.OPTIMIZER_STATE, StorageKind.BUFFER)
        ) | {trip.swap.storage for trip in self._across.wrapping}
        self._versions: dict[int, int] = {}
        self._unlike_any = count(-1, -1)
        self._lent = LentMemory(plan, self._lookups)
        self._sent_to: dict[int, int] = {}
        self._skipped: set[int] = set()
        self._ids: dict[int, int] = {}
        self._now = StepStatistics(step=0)

    def begin(self, now: StepStatistics) -> None:
        """Begins a step.

        Args:
            now: Where its figures go.
        """
        self._now = now
        self._skipped.clear()
        self.left_out = False
        self._lent.take_back()

    @property
    def why_no_room(self) -> str | None:
        """What this step keeps on the device against the plan; None if that is nothing."""
        return self._lent.why_no_room

    def away(self) -> frozenset[int]:
        """Returns those that nobody may touch before they are back, by `_cdata`."""
        return frozenset(
            tracked.cdata
            for tracked in self.tracked.values()
            if tracked.residency is not Residency.RESIDENT
        )

    def missing(self) -> frozenset[int]:
        """Returns the ids of storages that the plan finds when a step begins, and that are not."""
        return frozenset(i for i in self._lasting if storage_of(self._lookups[i]()) is None)

    def are_held(self) -> bool:
        """Whether the model and optimizer still hold what they held when the last step ended."""
        replaced = [
            storage_id
            for storage_id, tracked in self.tracked.items()
            if not tracked.is_held_as(storage_of(self._lookups[storage_id]()))
        ]
        return not replaced

    def enter(self) -> None:
        """Brings every storage where the plan has it when a step begins.

        See [Note: entering the steady state] in `runtime.replay.cyclic_swaps`.

        Raises:
            UnmovableError: One is not as the plan expects.
        """
        for trip in self._across.wrapping:
            self._enter(trip)
        self.flush()

    def take_over(self, first: FirstStep) -> None:
        """Brings every storage where the plan has it when a step begins, one after the other.

        See [Note: the step that makes the states] in `runtime.replay.first_step`.

        Args:
            first: The step that has just ended.

        Raises:
            UnmovableError: A storage is not as the plan expects.
        """
        first.make_room()
        for trip in self._across.wrapping:
            storage = storage_of(self._lookups[trip.swap.storage]())
            if storage is not None and trip.residency is not Residency.RETURNING:
                first.hand_over(storage)
                self._enter(trip)
        self.flush()
        first.close()

    def flush(self) -> None:
        """Sends off pending batches; see [Note: pending batch] in `runtime.lanes.lane`."""
        self.d2h.flush()
        self.h2d.flush()

    def settle(self) -> None:
        """Leaves every storage where the plan has it when a step ends."""
        for storage_id, tracked in tuple(self.tracked.items()):
            lasts = storage_id in self._lookups
            if not lasts or tracked.residency is not self._across.residency(storage_id):
                tracked.restore(self.h2d)
            if tracked.residency is Residency.RESIDENT and not tracked.has_copy:
                del self.tracked[storage_id]

    def restore(self) -> None:
        """Brings every storage back, whatever was going on; no budget holds until the step ends.

        An interrupt may end it at any point. It may then be called again.

        Raises:
            torch.OutOfMemoryError: The device has no room for all of them. What is still away stays
                so, and may be asked for again.
            CopyFailedError: Some could not be copied back; as before.
        """
        self._accountant.lift()
        self.flush()
        faults: list[BaseException] = []
        for tracked in tuple(self.tracked.values()):
            try:
                tracked.restore(self.h2d)
            except BaseException as error:
                # The others come back all the same.
                faults.append(error)
        if faults:
            try:
                raise _most_urgent(faults)
            finally:
                # Its traceback holds this frame, as in `profiles.hooks.mode_stack`.
                faults.clear()

    def take_overrun_us(self) -> float:
        """Returns how much longer copies took than the link would have, since last asked."""
        return sum(tracked.take_overrun_us() for tracked in self.tracked.values())

    def close(self) -> None:
        """Ends the lanes, and lets go of the host pool; everything must be back."""
        self.d2h.close()
        self.h2d.close()
        self._pool = HostPool(0)

    def check_shown(self, key: str, storage_id: int, storage: torch.UntypedStorage | None) -> None:
        """Gets to know the storage that an anchor shows.

        Raises:
            UnmovableError: It is not the planned one.
        """
        name_of = self._plan.storage
        if storage is None:
            raise UnmovableError(f"{key} shows nothing, planned {name_of(storage_id).name!r}")
        tracked = self.tracked.get(storage_id)
        if tracked is not None:
            if not tracked.is_held_as(storage):
                raise UnmovableError(f"{key} shows another storage than {name_of(storage_id).name}")
            return
        if storage.nbytes() != self._sizes[storage_id]:
            raise UnmovableError(
                f"{key} shows {storage.nbytes()} bytes, planned {self._sizes[storage_id]}"
            )
        if storage_id in self._moved:
            self._track(storage_id, storage)

    def act(self, action: Action, slot: int) -> None:
        """Does one action of the schedule at the anchor of a slot.

        Raises:
            UnmovableError: The storage is not as the plan expects.
        """
        clean = self._across.clean_swap_from(action, slot)
        begins = action.kind is ActionKind.SWAP_OUT or clean is not None
        if action.storage in self._skipped and not begins:
            return
        match action.kind:
            case ActionKind.SWAP_OUT:
                self._swap_out(action.storage, slot)
            case ActionKind.RELEASE if clean is not None:
                self._begin_clean_swap(clean)
            case ActionKind.RELEASE:
                self._release(self.tracked[action.storage], action.storage)
            case ActionKind.SWAP_IN:
                self._swap_in(self.tracked[action.storage], action.storage)
            case ActionKind.AWAIT:
                self._arrive(action.storage, slot)

    def _enter(self, trip: CyclicSwap) -> None:
        tracked = self._known(trip.swap.storage)
        if tracked is None or tracked.residency is trip.residency:
            return
        if trip.residency is Residency.RETURNING:
            self._skipped.add(trip.swap.storage)
            self.left_out = True
            return
        self._send(tracked, trip.swap.storage, trip.swap.host_offset_bytes)
        if trip.residency is Residency.AWAY:
            tracked.release()

    def _swap_out(self, storage_id: int, slot: int) -> None:
        tracked = self._known(storage_id)
        if tracked is not None:
            self._send(tracked, storage_id, self._offsets[storage_id, slot])

    def _begin_clean_swap(self, trip: Swap) -> None:
        """See [Note: clean trips] in `runtime.replay.cyclic_swaps`."""
        tracked = self._known(trip.storage)
        if tracked is None:
            return
        if tracked.has_copy and not self._was_written(tracked, trip.storage):
            tracked.drop()
        else:
            self._send(tracked, trip.storage, trip.host_offset_bytes)
            self._now.stall_us += tracked.release()

    def _release(self, tracked: TrackedStorage, storage_id: int) -> None:
        """Gives the device bytes back; copies once more what was written under the first copy."""
        leaving = tracked.residency is Residency.LEAVING
        if leaving and self._marks.shows_write(storage_id, tracked.storage):
            tracked.restore(self.h2d)
            self._send(tracked, storage_id, self._sent_to[storage_id])
        self._now.stall_us += tracked.release()

    def _was_written(self, tracked: TrackedStorage, storage_id: int) -> bool:
        """Whether a storage may have been written since its host copy was kept."""
        return self._version(storage_id) != self._versions[storage_id] or self._marks.shows_write(
            storage_id, tracked.storage
        )

    def _swap_in(self, tracked: TrackedStorage, storage_id: int) -> None:
        tracked.swap_in(self.h2d)
        self._marks.put_on(storage_id, tracked.storage)
        self._now.h2d_bytes += self._host_sizes[storage_id]
        self._now.host_peak_bytes = max(self._now.host_peak_bytes, tracked.host_end_bytes)

    def _arrive(self, storage_id: int, slot: int) -> None:
        tracked = self.tracked[storage_id]
        written = self._marks.shows_write(storage_id, tracked.storage)
        self._now.stall_us += tracked.arrive()
        if written:
            raise LostWriteError(self._plan.storage(storage_id).name)
        if self._across.needs_copy_after(storage_id, slot):
            tracked.keep_copy()
            self._versions[storage_id] = self._version(storage_id)
        else:
            tracked.forget_copy()

    def _send(self, tracked: TrackedStorage, storage_id: int, offset_bytes: int) -> None:
        size_bytes = self._host_sizes[storage_id]
        engine = self._engines.get(storage_id, CopyMethod.DMA)
        tracked.swap_out(self.d2h, self._pool.stretch(offset_bytes, size_bytes), engine)
        self._marks.put_on(storage_id, tracked.storage)
        self._sent_to[storage_id] = offset_bytes
        self._now.d2h_bytes += size_bytes
        self._now.host_peak_bytes = max(self._now.host_peak_bytes, tracked.host_end_bytes)

    def _version(self, storage_id: int) -> int:
        """Counts writes of an owned storage that autograd sees, whether the step is watched or not.

        Those of an activation are autograd's own business: writing a saved tensor is an error.
        """
        count = self._write_counts.get(storage_id)
        if count is None:
            return 0
        tensor = self._lookups[storage_id]()
        if tensor is not None and tensor.is_inference() and not self._accountant.watching:
            # It has no such count. Only who looks at every op can tell that it was not written.
            return next(self._unlike_any)
        return count()

    def _known(self, storage_id: int) -> TrackedStorage | None:
        """Returns the record of a storage whose trip begins; None, and no trip, if it has none."""
        tracked = self.tracked.get(storage_id) or self._find(storage_id)
        if tracked is not None and self._lent.keeps(storage_id, tracked):
            tracked = None
        if tracked is None:
            self._skipped.add(storage_id)
            self._now.skipped_swaps += 1
        else:
            self._skipped.discard(storage_id)
        return tracked

    def _find(self, storage_id: int) -> TrackedStorage | None:
        """Looks up an owned storage. One that does not exist yet makes no trip: it needs none."""
        lookup = self._lookups.get(storage_id)
        storage = None if lookup is None else storage_of(lookup())
        if storage is None:
            return None
        if storage.nbytes() != self._sizes[storage_id]:
            raise UnmovableError(
                f"{self._plan.storage(storage_id).name} has {storage.nbytes()} bytes, planned "
                f"{self._sizes[storage_id]}"
            )
        return self._track(storage_id, storage)

    def _track(self, storage_id: int, storage: torch.UntypedStorage) -> TrackedStorage:
        """Begins the record of a storage.

        Raises:
            UnmovableError: It has one, under another name: two trips of one storage would meet.
        """
        other_id = self._ids.get(storage._cdata)
        other = None if other_id is None else self.tracked.get(other_id)
        if other_id is not None and other is not None and other.is_held_as(storage):
            one, two = self._plan.storage(storage_id).name, self._plan.storage(other_id).name
            raise UnmovableError(f"{one} and {two} are one storage here, planned two")
        self._ids[storage._cdata] = storage_id
        tracked = self.tracked[storage_id] = TrackedStorage(storage, self._accountant)
        return tracked


def _most_urgent(faults: list[BaseException]) -> BaseException:
    """Returns which of several faults is raised: an interrupt before any other, else the first."""
    urgent = next((f for f in faults if not isinstance(f, Exception)), faults[0])
    for fault in faults:
        if isinstance(fault, torch.OutOfMemoryError):
            urgent.add_note(
                "swapplan: not all that the plan had away fits on the device at once; part of it "
                "is still in host memory. Free device memory and close the replay again."
            )
            break
    return urgent
