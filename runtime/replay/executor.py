"""Moves the storages of one model as a plan says: one action at a time, and at the step's ends.

What moves when is the schedule's business, and what to do if it fails is the replay's. Here is
known where each storage is, and which swaps are not made this time.
"""

from dataclasses import replace
from functools import partial

import torch

from planner.plan.plan import Swap
from planner.plan.schedule import Action, ActionKind
from profiles.schema.units import NS_PER_US
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.host.host_pool import HostPool, HostStretch
from runtime.recompute.recipes import Recipes
from runtime.replay.backend import Backend
from runtime.replay.lent_memory import LentMemory
from runtime.replay.lookup import storage_of
from runtime.replay.running_step import OtherCourseError
from runtime.replay.seen_writes import SeenWrites
from runtime.replay.statistics import StepStatistics
from runtime.replay.swap_index import SwapIndex
from runtime.storage.accountant import Accountant
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError
from runtime.storage.write_marks import LostWriteError


class SwapExecutor:
    """The storages that a plan moves, and where they are.

    Attributes:
        index: What the plan wants of each storage.
        backend: The device's lanes and host pool, and what else it brings along.
        lent: Those that cannot be moved now.
        recipes: What fills those again that are dropped.
        tracked: Records of those that the plan has moved, by id. Between steps: of those that are
            not resident, or have a host copy that a later swap relies on.
        left_out: Whether this step began with a storage resident that the plan has on its way back
            then, so that the rest of that swap is not made.
    """

    def __init__(
        self,
        index: SwapIndex,
        backend: Backend,
        accountant: Accountant,
        writes: SeenWrites,
        recipes: Recipes,
    ) -> None:
        self.backend = backend
        self.tracked: dict[int, TrackedStorage] = {}
        self.left_out = False
        self.index = index
        self.recipes = recipes
        self._accountant = accountant
        self._writes = writes
        self.lent = LentMemory(index)
        self._skipped: set[int] = set()
        self._ids: dict[int, int] = {}
        self._now = StepStatistics(step=0)

    def begin(self, now: StepStatistics, *, watched: bool) -> None:
        """Begins a step, whose figures go into `now`, and whose memory is counted if `watched`."""
        self._now = now
        self._skipped.clear()
        self.left_out = False
        self.lent.take_back()
        self.recipes.begin(is_first=now.step == 0)
        if watched:
            self._accountant.memory.count_owned(self.index.owned())

    def away(self) -> tuple[TrackedStorage, ...]:
        """Returns those that must not be touched before they are back."""
        tracked = tuple(self.tracked.values())
        return tuple(one for one in tracked if one.residency is not Residency.RESIDENT)

    def are_held(self) -> bool:
        """Whether the model and optimizer still hold what they held when the last step ended."""
        lookups = self.index.lookups
        replaced = [
            storage_id
            for storage_id, tracked in self.tracked.items()
            if not tracked.is_held_as(storage_of(lookups[storage_id]()))
        ]
        return not replaced

    def enter(self) -> None:
        """Brings every storage where the plan has it when a step begins.

        See [Note: entering the steady state] in `runtime.replay.swap_index`.

        Raises:
            UnmovableError: One is not as the plan expects.
        """
        self.index.check_parameters()
        for swap in self.index.wrapping:
            self._enter(swap)
        self.flush()

    def take_over(self, from_swap: OnlineSwap) -> None:
        """Brings every storage where the plan has it when a step begins, one after the other.

        What has them, `from_swap`, moves them out first, so that there is room for each; see
        [Note: the step that makes the states] in `runtime.replay.first_step`.

        Raises:
            UnmovableError: A storage is not as the plan expects.
        """
        from_swap.evict_all_but(set())
        self.lent.take_back()
        for swap in self.index.wrapping:
            storage = storage_of(self.index.lookups[swap.storage]())
            returns = self.index.storages[swap.storage].at_boundary is Residency.RETURNING
            if storage is not None and not returns:
                from_swap.hand_over(storage)
                self._enter(swap)
        self.flush()
        from_swap.close()

    def hand_over(self, to_swap: OnlineSwap) -> None:
        """Brings everything back, one after the other, to what makes room for each on line.

        What is dropped comes last: recipes read the others.

        What is under way has its device bytes already, and arrives before `to_swap` hears of it:
        that would take it for resident, and move out bytes that are not there yet.

        The reverse of `take_over`; an interrupt may end it at any point. It may then be called
        again, and so may `restore`.
        """
        self.flush()
        self.recipes.capture.stop()
        for tracked in tuple(self.tracked.values()):
            if tracked.residency is not Residency.AWAY:
                tracked.restore(self.backend.h2d)
        to_swap.begin_step(self.index.owned())
        # Those that are here first: they make room for the others.
        for tracked in sorted(
            self.tracked.values(), key=lambda one: one.residency is Residency.AWAY
        ):
            if tracked.residency is Residency.AWAY:
                to_swap.make_fit(tracked.size_bytes)
                to_swap.try_twice(partial(tracked.restore, self.backend.h2d), set())
            if tracked.residency is Residency.RESIDENT and tracked.storage is not None:
                to_swap.take_in(tracked.storage)
        self.recipes.bring_back_on_line(to_swap)
        self.forget()

    def flush(self) -> None:
        """Sends off pending batches; see [Note: pending batch] in `runtime.lanes.lane`."""
        self.backend.d2h.flush()
        self.backend.h2d.flush()

    def settle(self) -> None:
        """Leaves every storage where the plan has it when a step ends."""
        self._end_recipes()
        for storage_id, tracked in tuple(self.tracked.items()):
            storage = self.index.storages[storage_id]
            if storage.lookup is None or tracked.residency is not storage.at_boundary:
                tracked.restore(self.backend.h2d)
            is_back = tracked.residency is Residency.RESIDENT and not tracked.has_copy
            if is_back or tracked.storage is None:
                del self.tracked[storage_id]

    def restore(self) -> None:
        """Brings every storage back, whatever was going on; no budget may be enforced meanwhile.

        An interrupt may end it at any point. It may then be called again.

        Raises:
            torch.OutOfMemoryError: The device has no room for all of them. What is still away stays
                so, and may be asked for again.
            CopyFailedError: Some could not be copied back; as before.
        """
        self.recipes.capture.stop()
        self.flush()
        faults: list[BaseException] = []
        for tracked in tuple(self.tracked.values()):
            try:
                tracked.restore(self.backend.h2d)
            except BaseException as error:
                # The others come back all the same.
                faults.append(error)
        try:
            # Recipes read what has been away.
            self.recipes.bring_back()
        except BaseException as error:
            faults.append(error)
        if faults:
            try:
                raise _most_urgent(faults)
            finally:
                # Its traceback holds this frame, as in `profiles.hooks.mode_stack`.
                faults.clear()

    def forget(self) -> None:
        """Ends all records: everything is back, and the next step looks it up anew."""
        self._end_recipes()
        self.tracked.clear()

    def take_overrun_us(self) -> float:
        """Returns how much longer copies took than the link would have, since last asked."""
        return sum(tracked.take_overrun_us() for tracked in self.tracked.values())

    def close(self) -> None:
        """Ends the lanes, and lets go of the host pool; everything must be back."""
        self.backend.d2h.close()
        self.backend.h2d.close()
        self.backend = replace(self.backend, pool=HostPool(0))

    def check_shown(self, key: str, storage_id: int, storage: torch.UntypedStorage | None) -> None:
        """Checks that an anchor shows the planned storage, and begins its record if it moves.

        Raises:
            OtherCourseError: It is not the planned one.
            UnmovableError: It has a record under another name.
        """
        planned = self.index.storages[storage_id]
        if storage is None:
            raise OtherCourseError(f"{key} shows nothing, planned {planned.name!r}")
        tracked = self.tracked.get(storage_id)
        if tracked is not None:
            if not tracked.is_held_as(storage):
                raise OtherCourseError(f"{key} shows another storage than {planned.name}")
            return
        if storage.nbytes() != planned.size_bytes:
            raise OtherCourseError(
                f"{key} shows {storage.nbytes()} bytes, planned {planned.size_bytes}"
            )
        if storage_id in self.index.moved:
            self._track(storage_id, storage)

    def act(self, action: Action, slot: int) -> None:
        """Does one action of the schedule at the anchor of a slot.

        Raises:
            UnmovableError: The storage is not as the plan expects.
        """
        storage_id = action.storage
        swap = self.index.swap_from(action, slot)
        if self._is_freed_early(storage_id):
            self._now.skipped_swaps += storage_id not in self._skipped
            self._skipped.add(storage_id)
        elif swap is not None:
            self._begin_swap(swap)
        elif storage_id not in self._skipped:
            tracked = self.tracked[storage_id]
            match action.kind:
                case ActionKind.DROP:
                    self.recipes.drop(storage_id, tracked, slot)
                case ActionKind.REBUILD:
                    self.recipes.rebuild(storage_id, slot)
                case ActionKind.RELEASE:
                    self._now.stall_us += self._release(storage_id, tracked)
                case ActionKind.SWAP_IN:
                    self._swap_in(storage_id, tracked)
                case ActionKind.AWAIT:
                    self._arrive(storage_id, tracked, slot)

    def leave_out(self, action: Action, slot: int) -> None:
        """Does one action of an update that the step skips.

        See [Note: shortcuts] in `runtime.replay.running_step`.

        Raises:
            UnmovableError: The storage is not as the plan expects.
        """
        storage_id = action.storage
        if action.kind is ActionKind.REBUILD:
            self.recipes.let_go_of_dead()
        tracked, lookup = self.tracked.get(storage_id), self.index.storages[storage_id].lookup
        has_none = lookup is None or storage_of(lookup()) is None
        is_not_made = has_none and (tracked is None or tracked.storage is None)
        # What is dropped there might be made again by ops of the update.
        if is_not_made or action.kind is ActionKind.DROP:
            self._skipped.add(storage_id)
        else:
            self.act(action, slot)

    def _is_freed_early(self, storage_id: int) -> bool:
        """Whether a storage that the step made, or was given, is gone with all that led to it.

        Nobody can use it again, and the plan has had room for it: there is nothing to move. One
        that the model owns has been replaced instead, and what stands in its place is not known.
        """
        tracked = self.tracked.get(storage_id)
        is_gone = tracked is not None and tracked.storage is None
        return is_gone and self.index.storages[storage_id].lookup is None

    def _end_recipes(self) -> None:
        """Ends the recipes of a step, with their figures in its statistics."""
        recipes, now = self.recipes, self._now
        recipes.bring_back()
        now.rebuilt_bytes, now.ops_run_again = recipes.rebuilt_bytes, recipes.ops_run_again
        now.rebuild_us = recipes.rebuild_ns / NS_PER_US
        now.capture_us = recipes.capture.capture_ns / NS_PER_US
        recipes.end()

    def _begin_swap(self, swap: Swap) -> None:
        """Issues the copy to the host; see [Note: clean swaps] in `runtime.replay.swap_index`."""
        tracked = self._known(swap.storage)
        if tracked is None:
            return
        has_copy = swap.clean and tracked.has_copy
        if has_copy and not self._writes.since_kept_copy(swap.storage, tracked):
            tracked.drop()
            return
        self._send(swap.storage, tracked, self._host_of(swap))
        if swap.clean:
            self._now.stall_us += self._release(swap.storage, tracked)

    def _enter(self, swap: Swap) -> None:
        tracked = self._known(swap.storage)
        at_boundary = self.index.storages[swap.storage].at_boundary
        if tracked is None or tracked.residency is at_boundary:
            return
        if at_boundary is Residency.RETURNING:
            self._skipped.add(swap.storage)
            self.left_out = True
            return
        self._send(swap.storage, tracked, self._host_of(swap))
        if at_boundary is Residency.AWAY:
            self._release(swap.storage, tracked)

    def _release(self, storage_id: int, tracked: TrackedStorage) -> float:
        """Gives the device bytes back; returns us waited.

        What was written under the first copy is copied once more.
        """
        host = tracked.host
        # Looked at only then: another thread may write while this one waits.
        waited_us = tracked.wait()
        is_leaving = tracked.residency is Residency.LEAVING
        if is_leaving and self._writes.since_copy(storage_id, tracked):
            assert host is not None
            tracked.restore(self.backend.h2d)
            self._send(storage_id, tracked, host)
        return waited_us + tracked.release()

    def _swap_in(self, storage_id: int, tracked: TrackedStorage) -> None:
        tracked.swap_in(self.backend.h2d)
        self._writes.note_copy(storage_id, tracked)
        self._now.h2d_bytes += self.index.storages[storage_id].host_bytes
        self._note_host(tracked)

    def _arrive(self, storage_id: int, tracked: TrackedStorage, slot: int) -> None:
        self._now.stall_us += tracked.arrive()
        if self._writes.since_copy(storage_id, tracked):
            raise LostWriteError(self.index.storages[storage_id].name)
        if self.index.needs_copy_after(storage_id, slot):
            tracked.keep_copy()
            self._writes.note_kept_copy(storage_id, tracked)
        else:
            tracked.forget_copy()

    def _host_of(self, swap: Swap) -> HostStretch:
        size_bytes = self.index.storages[swap.storage].host_bytes
        return self.backend.pool.stretch(swap.host_offset_bytes, size_bytes)

    def _send(self, storage_id: int, tracked: TrackedStorage, host: HostStretch) -> None:
        tracked.swap_out(self.backend.d2h, host, self.index.storages[storage_id].method)
        self._writes.note_copy(storage_id, tracked)
        self._now.d2h_bytes += host.size_bytes
        self._note_host(tracked)

    def _note_host(self, tracked: TrackedStorage) -> None:
        host = tracked.host
        assert host is not None
        end_bytes = host.offset_bytes + host.size_bytes
        self._now.host_peak_bytes = max(self._now.host_peak_bytes, end_bytes)

    def _known(self, storage_id: int) -> TrackedStorage | None:
        """Returns the record of a storage whose swap begins; None, and no swap, if it has none."""
        tracked = self.tracked.get(storage_id) or self._find(storage_id)
        if tracked is not None and self.lent.keeps(storage_id, tracked):
            tracked = None
        if tracked is None:
            self._skipped.add(storage_id)
            self._now.skipped_swaps += 1
        else:
            self._skipped.discard(storage_id)
        return tracked

    def _find(self, storage_id: int) -> TrackedStorage | None:
        """Looks up an owned storage. One that does not exist yet is not swapped: it need not be."""
        planned = self.index.storages[storage_id]
        storage = None if planned.lookup is None else storage_of(planned.lookup())
        if storage is None:
            return None
        if storage.nbytes() != planned.size_bytes:
            raise UnmovableError(
                f"{planned.name} has {storage.nbytes()} bytes, planned {planned.size_bytes}"
            )
        return self._track(storage_id, storage)

    def _track(self, storage_id: int, storage: torch.UntypedStorage) -> TrackedStorage:
        """Begins the record of a storage.

        Raises:
            UnmovableError: It has one, under another name: two swaps of one storage would meet.
        """
        other_id = self._ids.get(storage._cdata)
        other = None if other_id is None else self.tracked.get(other_id)
        if other_id is not None and other is not None and other.is_held_as(storage):
            one, two = self.index.storages[storage_id].name, self.index.storages[other_id].name
            raise UnmovableError(f"{one} and {two} are one storage here, planned two")
        self._ids[storage._cdata] = storage_id
        name = self.index.storages[storage_id].name
        tracked = self.tracked[storage_id] = TrackedStorage(storage, self._accountant, name)
        return tracked


def _most_urgent(faults: list[BaseException]) -> BaseException:
    """Returns which of several faults is raised: an interrupt before any other, else the first."""
    urgent = next((f for f in faults if not isinstance(f, Exception)), faults[0])
    if [fault for fault in faults if isinstance(fault, torch.OutOfMemoryError)]:
        urgent.add_note(
            "swapplan: not all that the plan had away fits on the device at once; part of it "
            "is still in host memory. Free device memory and close the replay again."
        )
    return urgent
