"""Moves the storages of one model as a plan says: one action at a time, and at the step's ends.

What moves when is the schedule's business, and what to do if it fails is the replay's. Here is
known which storage a plan means, where each is, and which trips are not made this time.
"""

from collections.abc import Callable
from functools import partial

import torch

from planner.plan import Plan, Swap
from planner.schedule import Action, ActionKind
from profiles.anchors import OPTIMIZER_POST, OPTIMIZER_PRE, is_update
from profiles.copy_engine import CopyEngine
from runtime.accountant import Accountant
from runtime.backend import Backend
from runtime.binding import lookups, storage_of
from runtime.boundary_trips import BoundaryTrip, BoundaryTrips
from runtime.late_trips import LateTrips
from runtime.made_storages import MadeStorages
from runtime.residency import Residency, TrackedStorage, UnmovableError
from runtime.statistics import StepStatistics


class Moves:
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
    ) -> None:
        self.d2h, self.h2d = backend.d2h, backend.h2d
        self.tracked: dict[int, TrackedStorage] = {}
        self.left_out = False
        self._plan = plan
        self._pool = backend.pool
        self._accountant = accountant
        self._sizes = {storage.id: storage.size_bytes for storage in plan.storages}
        self._offsets = {(s.storage, s.swap_out_slot): s.host_offset_bytes for s in plan.swaps}
        self._engines = plan.engines
        self._host_sizes = plan.host_sizes_bytes
        self._moved = frozenset(swap.storage for swap in plan.swaps)
        self._lookups = lookups(plan, model, optimizer)
        self._across = BoundaryTrips(plan)
        self._late = LateTrips(plan)
        self._made = MadeStorages(plan)
        self._versions: dict[int, int] = {}
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

    def are_held(self) -> bool:
        """Whether the model and optimizer still hold what they held when the last step ended."""
        return all(
            tracked.is_held_as(storage_of(self._lookups[storage_id]()))
            for storage_id, tracked in self.tracked.items()
        )

    def enter(self) -> None:
        """Brings every storage where the plan has it when a step begins.

        See [Note: entering the steady state] in `runtime.boundary_trips`.

        Raises:
            UnmovableError: One is not as the plan expects.
        """
        for trip in self._across.wrapping:
            self._enter(trip)
        self.flush()

    def flush(self) -> None:
        """Sends off what boards the lanes; see [Note: boarding] in `runtime.copying`."""
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
        """Brings every storage back, whatever was going on.

        Raises:
            torch.OutOfMemoryError: The device has no room for all of them. What is still away stays
                so, and may be asked for again.
        """
        if any(t.residency is not Residency.RESIDENT for t in self.tracked.values()):
            self._accountant.lift()
        try:
            for tracked in self.tracked.values():
                tracked.restore(self.h2d)
        except torch.OutOfMemoryError as error:
            error.add_note(
                "swapplan: not all that the plan had away fits on the device at once; part of it "
                "is still in host memory. Free device memory and close the replay again."
            )
            raise

    def take_overrun_us(self) -> float:
        """Returns how much longer copies took than the link would have, since last asked."""
        return sum(tracked.take_overrun_us() for tracked in self.tracked.values())

    def close(self) -> None:
        """Ends the lanes."""
        self.d2h.close()
        self.h2d.close()

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
        clean = self._across.clean_trip_from(action, slot)
        begins = action.kind is ActionKind.SWAP_OUT or clean is not None
        if action.storage in self._skipped and not begins:
            return
        match action.kind:
            case ActionKind.SWAP_OUT:
                self._swap_out(action.storage, slot)
            case ActionKind.RELEASE if clean is not None:
                self._begin_clean_trip(clean)
            case ActionKind.RELEASE:
                self._now.stall_us += self.tracked[action.storage].release()
            case ActionKind.SWAP_IN:
                self._swap_in(self.tracked[action.storage], action.storage)
            case ActionKind.AWAIT:
                self._arrive(action.storage, slot)

    def look_out_for_states(self, key: str, slot: int, fault: Callable[[str], None]) -> None:
        """Follows what the optimizer makes, in a step whose plan moves states not made so far.

        Args:
            key: The anchor that has been reached.
            slot: Its slot.
            fault: Told if a state is not as the plan expects.
        """
        makes_states = key == OPTIMIZER_PRE and self._skipped
        late_trips = partial(self._make_late_trips, slot, fault) if makes_states else None
        self._accountant.before_each_op(late_trips)
        if makes_states:
            self._made.clear()
            self._accountant.when_made(self._made.note)
        elif is_update(key):
            self._made.begin_update(key)
        elif key == OPTIMIZER_POST:
            self._accountant.when_made(None)
            self._made.clear()

    def take_back(self, tracked: TrackedStorage) -> bool:
        """Undoes the trip of what was taken for a state and is none; that state makes no trip.

        Returns:
            Whether the storage was taken for a state.
        """
        taken = next((i for i in self._made.taken if self.tracked.get(i) is tracked), None)
        if taken is None:
            return False
        tracked.restore(self.h2d)
        del self.tracked[taken]
        self._skipped.add(taken)
        self._now.skipped_swaps += 1
        return True

    def _enter(self, trip: BoundaryTrip) -> None:
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

    def _begin_clean_trip(self, trip: Swap) -> None:
        """See [Note: clean trips] in `runtime.boundary_trips`."""
        tracked = self._known(trip.storage)
        if tracked is None:
            return
        if tracked.has_copy and self._version(trip.storage) == self._versions[trip.storage]:
            tracked.drop()
        else:
            self._send(tracked, trip.storage, trip.host_offset_bytes)
            self._now.stall_us += tracked.release()

    def _swap_in(self, tracked: TrackedStorage, storage_id: int) -> None:
        tracked.swap_in(self.h2d)
        self._now.h2d_bytes += self._host_sizes[storage_id]
        self._now.host_peak_bytes = max(self._now.host_peak_bytes, tracked.host_end_bytes)

    def _arrive(self, storage_id: int, slot: int) -> None:
        tracked = self.tracked[storage_id]
        self._now.stall_us += tracked.arrive()
        if self._across.needs_copy_after(storage_id, slot):
            tracked.keep_copy()
            self._versions[storage_id] = self._version(storage_id)
        else:
            tracked.forget_copy()

    def _send(self, tracked: TrackedStorage, storage_id: int, offset_bytes: int) -> None:
        size_bytes = self._host_sizes[storage_id]
        engine = self._engines.get(storage_id, CopyEngine.COPY_ENGINE)
        tracked.swap_out(self.d2h, self._pool.stretch(offset_bytes, size_bytes), engine)
        self._now.d2h_bytes += size_bytes
        self._now.host_peak_bytes = max(self._now.host_peak_bytes, tracked.host_end_bytes)

    def _make_late_trips(self, slot: int, fault: Callable[[str], None]) -> None:
        """Sends away what has just been made; see [Note: states in the step that makes them]."""
        if self._now.fallback is not None:
            return
        for storage_id in tuple(self._skipped):
            trip = self._late.trip_at(storage_id, slot)
            try:
                tracked = None if trip is None else self._find(storage_id)
                if trip is not None and tracked is not None:
                    self._skipped.discard(storage_id)
                    self._send(tracked, storage_id, trip.host_offset_bytes)
                    self._now.stall_us += tracked.release()
            except UnmovableError as error:
                fault(str(error))
                return

    def _version(self, storage_id: int) -> int:
        """Counts writes of an owned storage that autograd sees, whether the step is watched or not.

        Those of an activation are autograd's own business: writing a saved tensor is an error.
        """
        lookup = self._lookups.get(storage_id)
        tensor = None if lookup is None else lookup()
        return 0 if tensor is None else tensor._version

    def _known(self, storage_id: int) -> TrackedStorage | None:
        """Returns the record of a storage whose trip begins; None, and no trip, if it has none."""
        tracked = self.tracked.get(storage_id) or self._find(storage_id)
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
            storage = self._made.take(storage_id)
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
