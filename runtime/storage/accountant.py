"""The bytes of a device: counted as ops run, and on the emulated accelerator bounded.

They are counted as the recorder does (`profiles.recording.trace`), so measured peaks and planned
peaks speak of the same bytes: storages, at their own size, without what a kernel allocates and
frees within one op.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import OpMode, storages_in, storages_of
from profiles.hooks.draws import draw_of
from profiles.hooks.live_storages import LiveStorages
from profiles.hooks.mode_stack import enter_ops, leave_ops
from profiles.hooks.named_storages import Owned
from profiles.hooks.plain_tensors import is_shared_memory
from profiles.recording.allocator_peaks import AllocatorMeter, rounded_bytes
from profiles.schema.profile import CPU
from runtime.storage.guarded_storages import GuardedStorages

MIB = 1 << 20


class EmulatedOutOfMemoryError(torch.OutOfMemoryError):
    """The emulated accelerator has no room; what CUDA's out-of-memory error is to a GPU."""


class Counted(NamedTuple):
    """A storage that is counted, at its bytes on the device now."""

    size_bytes: int
    made_by: str
    """The op that showed it first; empty if it was there already."""


class DeviceBytes:
    """The bytes of all storages of a device that are alive.

    Attributes:
        peak_bytes: Most device bytes since `begin`.
        slot_peak_bytes: Most device bytes since `open_slot`.
    """

    def __init__(self, device: torch.device, guarded: GuardedStorages) -> None:
        """Counts nothing. Of what is forbidden only `take` and `resize_known` will count bytes."""
        self.peak_bytes = 0
        self.slot_peak_bytes = 0
        self._device = device
        self._guarded = guarded
        self._live_bytes = 0
        self._counted: LiveStorages[Counted] = LiveStorages(self._on_release)
        self._op: object = None
        self._peaks_before = (0, 0)
        self._was_refused = False
        self._dying_bytes = 0

    @property
    def live_bytes(self) -> int:
        """Device bytes now."""
        self._counted.drain()
        return self._live_bytes

    def counted(self) -> tuple[Counted, ...]:
        """Returns what is counted now, in the order in which it was first seen."""
        notes = (self._counted.get(cdata) for cdata in self._counted)
        return tuple(note for note in notes if note is not None)

    def begin(self) -> None:
        """Begins a step."""
        # Anew, for an interrupt may have come between the parts of a sum.
        self._op, self._dying_bytes, self._was_refused = None, 0, False
        self._live_bytes = self.peak_bytes = sum(note.size_bytes for note in self.counted())

    def open_slot(self) -> None:
        """Begins a slot, when the actions at its anchor are done."""
        self.slot_peak_bytes = self.live_bytes

    def begin_op(self, op: object) -> None:
        """An op runs: what is seen first until it ends, it has made."""
        self._counted.drain()
        self._op = op
        if self._was_refused:
            # The step has gone on: another device would have refused that op before it ran.
            peak_bytes, slot_peak_bytes = self._peaks_before
            self.peak_bytes = max(peak_bytes, self._live_bytes)
            self.slot_peak_bytes = max(slot_peak_bytes, self._live_bytes)
            self._was_refused = False
        self._peaks_before = (self.peak_bytes, self.slot_peak_bytes)

    def refuse_op(self) -> None:
        """What this op has made does not fit; it counts in no peak if the step goes on."""
        self._was_refused = True

    def end_op(self) -> None:
        """What an op frees counts until it ends, as it does for the recorder."""
        self._counted.drain()
        self._op = None
        self._live_bytes -= self._dying_bytes
        self._dying_bytes = 0

    def count(self, storages: Iterable[torch.UntypedStorage]) -> None:
        """Counts storages that are there, whether an op ever touches them or not."""
        for storage in storages:
            self.see(storage)

    def count_owned(self, owned: tuple[Owned, ...]) -> None:
        """Counts storages that a step may never hand to an op, but that take memory all the same.

        It is not done when a step is entered: a context manager would hold its argument, and with
        it the gradients that `zero_grad` means to drop, until the step ends.
        """
        for owner in owned:
            self.see(owner.storage, is_owned=True)

    def see(self, storage: torch.UntypedStorage, *, is_owned: bool = False) -> None:
        """Counts a storage at the size it has now, unless it is the host's.

        See [Note: memory that processes share] in `profiles.hooks.plain_tensors`.
        """
        cdata = storage._cdata
        if self._guarded.is_forbidden(storage) or storage.device != self._device:
            return
        if cdata not in self._counted:
            if is_shared_memory(storage) and not is_owned:
                return
            self._counted.put(storage, Counted(0, "" if self._op is None else str(self._op)))
        self._resize(cdata, storage.nbytes())

    def take(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        """Counts bytes for a storage that is about to be refilled, whether it was known or not."""
        if storage._cdata not in self._counted:
            self._counted.put(storage, Counted(0, ""))
        self._resize(storage._cdata, size_bytes)

    def resize_known(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        """Counts other bytes for a storage, if it is counted."""
        if storage._cdata in self._counted:
            self._resize(storage._cdata, size_bytes)

    def _resize(self, cdata: int, size_bytes: int) -> None:
        counted = self._counted.get(cdata)
        if counted is None or counted.size_bytes == size_bytes:
            return
        self._counted.replace(cdata, counted._replace(size_bytes=size_bytes))
        self._live_bytes += size_bytes - counted.size_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.slot_peak_bytes = max(self.slot_peak_bytes, self.live_bytes)

    def _on_release(self, counted: Counted) -> None:
        if self._op is not None:
            self._dying_bytes += counted.size_bytes
        else:
            self._live_bytes -= counted.size_bytes


class Accountant(OpMode):
    """Sees every op of a watched step: has its bytes counted, and raises above the budget.

    The step is watched inside its `with` statement.

    Attributes:
        budget_bytes: The device's memory; None counts without a limit.
        guarded: Storages that are absent, moving or copied. An op on one is acted upon.
        memory: The device's bytes.
        watching: Whether a step is being watched.
    """

    def __init__(self, device: torch.device, budget_bytes: int | None) -> None:
        super().__init__()
        self.budget_bytes = budget_bytes
        self.guarded = GuardedStorages()
        self.memory = DeviceBytes(device, self.guarded)
        self.watching = False
        self._device = device
        # None where storages are all there is to the device's memory.
        self._meter = None if device.type == CPU else AllocatorMeter(device)
        self._lifted = False
        self._on_no_room: Callable[[], bool] = lambda: False

    def when_no_room(self, handler: Callable[[], bool]) -> None:
        """Sets what is asked when an op has exceeded the budget: whether that has been lifted."""
        self._on_no_room = handler

    def __enter__(self) -> Self:
        try:
            self.memory.begin()
            self._lifted = False
            self.watching = True
            enter_ops(self)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, also after an interrupt, and wherever in the stack it is; may be repeated."""
        leave_ops(self)
        self.watching = False

    def lift(self) -> None:
        """Stops enforcing the budget until the step ends, so that everything can be restored."""
        self._lifted = True

    def has_room(self, wanted_bytes: int) -> bool:
        """Whether so many bytes more are within the budget.

        Where the device has an allocator, what that has handed out is counted: all of the process.
        """
        if self.budget_bytes is None or self._lifted:
            return True
        return self.taken_bytes() + wanted_bytes <= self.budget_bytes

    @property
    def counts_all(self) -> bool:
        """Whether storages count that no op has touched yet."""
        return self._meter is not None

    def rounded_bytes(self, size_bytes: int) -> int:
        """Returns what an allocation of some size takes of the device."""
        if self._meter is None:
            return size_bytes
        return rounded_bytes(size_bytes, self._meter.granule_bytes)

    def taken_bytes(self) -> int:
        """Returns what is taken of the device; an allocator knows of all of it."""
        return self.memory.live_bytes if self._meter is None else self._meter.allocated_bytes()

    def give_back(self, storage: torch.UntypedStorage) -> None:
        """Counts the bytes of a storage that has just been emptied as free."""
        self.memory.resize_known(storage, 0)

    def take(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        """Counts bytes for a storage that is about to be refilled.

        Raises:
            EmulatedOutOfMemoryError: That would exceed the budget.
        """
        if not self.watching:
            self.memory.resize_known(storage, size_bytes)
            return
        self._check_room(size_bytes)
        self.memory.take(storage, size_bytes)

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op, counts what it makes and frees, and raises above the budget."""
        inputs = storages_in(func, args, kwargs)
        if self.guarded.detour is None:
            for storage, writes in inputs.items():
                self.guarded.look(func, storage, writes=writes)
        # Looking may have set it.
        while self.guarded.detour is None:
            draw = draw_of(func, args, kwargs)
            try:
                return self._run(inputs, func, args, kwargs)
            except torch.OutOfMemoryError:
                if draw is not None:
                    draw.take_back()
                if not self.guarded.makes_room(func, args, kwargs):
                    raise
        return self.guarded.detour(func, args, kwargs, partial(self._run, inputs))

    def _run(
        self, inputs: dict[torch.UntypedStorage, bool], func: OpOverload, args: Any, kwargs: Any
    ) -> Any:
        self.memory.count(inputs)
        notes = self.guarded.notes
        self.memory.begin_op(func)
        try:
            result = notes.run(func, args, kwargs) if notes.is_on else func(*args, **kwargs)
            written = [storage for storage, writes in inputs.items() if writes]
            # What an op writes it may have resized.
            self.memory.count((*written, *storages_of(result)))
            if not self.has_room(0) and not self._on_no_room():
                words = self._refused()
                # The error holds this frame, and would hold what has been refused.
                del result
                raise EmulatedOutOfMemoryError(words)
        finally:
            self.memory.end_op()
        return result

    def run_again(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs once more an op that no mode sees; counts what it makes as an op's of the step.

        Raises:
            EmulatedOutOfMemoryError: That exceeds the budget.
        """
        if not self.watching:
            return func(*args, **kwargs)
        self.memory.begin_op(func)
        try:
            result = func(*args, **kwargs)
            self.memory.count(storages_of(result))
            if not self.has_room(0):
                words = self._refused()
                # The error holds this frame, and would hold what has been refused.
                del result
                raise EmulatedOutOfMemoryError(words)
        finally:
            self.memory.end_op()
        return result

    def hand_over(self, fresh: torch.UntypedStorage, storage: torch.UntypedStorage) -> None:
        """Counts for a storage the bytes that it has got from a fresh one."""
        self.memory.resize_known(fresh, fresh.nbytes())
        if self.watching:
            self.memory.take(storage, storage.nbytes())
        else:
            self.memory.resize_known(storage, storage.nbytes())

    def _check_room(self, wanted_bytes: int) -> None:
        if not self.has_room(wanted_bytes):
            raise EmulatedOutOfMemoryError(self._refusal(wanted_bytes))

    def _refused(self) -> str:
        """Takes note that the results of an op do not fit; returns what to say of it."""
        words = self._refusal(0)
        if self._meter is None:
            # What has memory of its own has had these results in it.
            self.memory.refuse_op()
        return words

    def _refusal(self, wanted_bytes: int) -> str:
        return (
            f"Emulated {self._device} device out of memory: "
            f"{(self.taken_bytes() + wanted_bytes) / MIB:.1f} MiB needed, its capacity is "
            f"{(self.budget_bytes or 0) / MIB:.1f} MiB."
        )
