"""What the device's allocator holds in each slot, beyond the storages that the trace can see.

The trace counts storages at their own size. The allocator rounds them up, kernels take workspace
within an op and give it back, libraries keep some for good, and there may be tensors that no step
touches. The peak of each slot, by the allocator's own count, has all of it.

Where storages come and go between ops, that peak says nothing about the resident step. Then the
overhead of a slot is put together from what is allocated all the time, rounding, and the workspace
of its ops.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import OpWatcher
from profiles.hooks.named_storages import Owned
from profiles.schema.memory import (
    GRANULE_BYTES,
    largest_workspaces,
    slot_memory,
    with_sizes,
)
from profiles.schema.profile import Profile


class MemoryMeter(Protocol):
    """The allocator's own count of device bytes.

    Attributes:
        granule_bytes: It rounds every allocation up to a multiple of this.
        unsplit_bytes: An allocation of more than this gets a free block whole if no more than this
            would be left over, and counts with all of the block.
    """

    granule_bytes: int
    unsplit_bytes: int

    def allocated_bytes(self) -> int:
        """Returns what is allocated now."""

    def reset_peak(self) -> None:
        """Starts a new peak at what is allocated now."""

    def peak_bytes(self) -> int:
        """Returns the most bytes allocated at once since the last reset."""


class AllocatorMeter:
    """The count of a caching allocator of torch's; other accelerators have taken over CUDA's.

    The allocator works in program order, on the host: its peaks need no wait for the device.

    [Note: one of a hundred counts] Ops are counted by the thousand, and torch's public functions
    flatten and sort all counts of the allocator for one of them: most of the time of an op. So the
    one is taken from what they are made of, where torch has that.
    """

    granule_bytes = GRANULE_BYTES
    unsplit_bytes = 1 << 20  # kSmallSize there; none is left over with expandable segments

    def __init__(self, device: torch.device) -> None:
        self.reset_peak = partial(torch.accelerator.reset_peak_memory_stats, device)
        self._counts = getattr(torch._C, "_accelerator_getDeviceStats", None)
        self._device = device

    def allocated_bytes(self) -> int:
        """Returns what is allocated now."""
        return self._count("current")

    def peak_bytes(self) -> int:
        """Returns the most bytes allocated at once since the last reset."""
        return self._count("peak")

    def _count(self, which: str) -> int:
        if self._counts is None:
            counts = torch.accelerator.memory_stats(self._device)
            return int(counts[f"allocated_bytes.all.{which}"])
        index = self._device.index
        here = torch.accelerator.current_device_index() if index is None else index
        return int(self._counts(here)["allocated_bytes"]["all"][which])


class SlotPeaks:
    """An anchor listener that reads the peak of each slot.

    Attributes:
        keys: The anchors, in order.
    """

    def __init__(self, meter: MemoryMeter) -> None:
        self.keys: list[str] = []
        self._meter = meter
        self._ended_bytes: list[int] = []

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Ends one peak and starts the next; see `profiles.hooks.anchors`."""
        if self.keys:
            self._ended_bytes.append(self._meter.peak_bytes())
        self.keys.append(key)
        self._meter.reset_peak()

    def peaks_bytes(self) -> tuple[int, ...]:
        """Returns the peak of each slot; the last slot's ends now."""
        return (*self._ended_bytes, self._meter.peak_bytes())


class OpWorkspaces(OpWatcher):
    """Reads the allocator's peak around each op.

    Attributes:
        names: The ops.
    """

    def __init__(self, meter: MemoryMeter) -> None:
        super().__init__()
        self.names: list[str] = []
        self._meter = meter

    def rewind(self, ops: int) -> None:
        """Forgets all ops but the first so many: they have to run again."""
        super().rewind(ops)
        del self.names[ops:]

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Notes what an op took meanwhile: the peak above what there is before and after it."""
        self._meter.reset_peak()
        before_bytes = self._meter.allocated_bytes()
        result = func(*args, **kwargs)
        kept_bytes = max(before_bytes, self._meter.allocated_bytes())
        self._noted.append(self._meter.peak_bytes() - kept_bytes)
        self.names.append(str(func))
        return result

    def sizes_bytes(self) -> tuple[int, ...]:
        """Returns the workspace of each op."""
        return tuple(self._noted)

    def largest_bytes(self) -> dict[str, int]:
        """Returns the most that any call of an op has taken, by name, of ops that take any."""
        return largest_workspaces(zip(self.names, self._noted, strict=True))


def with_overhead(profile: Profile, peaks_bytes: tuple[int, ...]) -> Profile:
    """Returns a profile with what each slot needs beyond its storages, from its measured peak."""
    slots = zip(slot_memory(profile), peaks_bytes, strict=True)
    # A storage that the allocator does not hold, such as mapped memory, is in the trace only.
    return _with_overheads(
        profile, (max(0, peak_bytes - memory.resident_bytes) for memory, peak_bytes in slots)
    )


def held_bytes(meter: MemoryMeter, device: torch.device, owned: tuple[Owned, ...]) -> int:
    """Returns what is allocated between steps beyond the storages a model and optimizer hold.

    Those on other devices take nothing of this one: optimizers keep their counters on the host.

    Libraries keep workspace for good, and there may be tensors of others. A batch that waits for
    the step is counted here, and as a storage once the step uses it: too much, never too little.
    """
    owned_bytes = sum(
        rounded_bytes(owner.storage.nbytes(), meter.granule_bytes)
        for owner in owned
        if owner.device == device
    )
    return max(0, meter.allocated_bytes() - owned_bytes)


def with_op_overhead(
    profile: Profile,
    *,
    granule_bytes: int,
    unsplit_bytes: int,
    held_bytes: int,
    workspaces_bytes: tuple[int, ...],
) -> Profile:
    """Returns a profile with what each slot needs beyond its storages, from that of its ops.

    Which free block a storage of the resident step would get is unknown. Each large one is taken
    to get the largest that is not split: too much, never too little.

    Args:
        profile: A profile without any overhead.
        granule_bytes: See `MemoryMeter`.
        unsplit_bytes: See `MemoryMeter`.
        held_bytes: What is allocated all the time.
        workspaces_bytes: What each op takes while it runs.
    """

    def block_bytes(size_bytes: int) -> int:
        unused_bytes = unsplit_bytes if size_bytes > unsplit_bytes else 0
        return rounded_bytes(size_bytes, granule_bytes) + unused_bytes

    profile = with_workspaces(profile, workspaces_bytes)
    rounded = with_sizes(profile, (block_bytes(s.size_bytes) for s in profile.storages))
    workspace_bytes = [0] * len(profile.slots)
    for op, size_bytes in zip(profile.ops, workspaces_bytes, strict=True):
        workspace_bytes[op.slot] = max(workspace_bytes[op.slot], size_bytes)
    slots = zip(slot_memory(profile), slot_memory(rounded), workspace_bytes, strict=True)
    return _with_overheads(
        profile,
        (
            after.resident_bytes - before.resident_bytes + own + held_bytes
            for before, after, own in slots
        ),
    )


def with_workspaces(profile: Profile, workspaces_bytes: tuple[int, ...]) -> Profile:
    """Returns a profile whose ops say what each takes while it runs."""
    ops = tuple(
        op.model_copy(update={"workspace_bytes": size_bytes})
        for op, size_bytes in zip(profile.ops, workspaces_bytes, strict=True)
    )
    return profile.model_copy(update={"ops": ops})


def _with_overheads(profile: Profile, overheads_bytes: Iterable[int]) -> Profile:
    slots = tuple(
        slot.model_copy(update={"overhead_bytes": overhead_bytes})
        for slot, overhead_bytes in zip(profile.slots, overheads_bytes, strict=True)
    )
    return profile.model_copy(update={"slots": slots})


def rounded_bytes(size_bytes: int, granule_bytes: int) -> int:
    """Returns what an allocator hands out for a block of some size."""
    return -(-size_bytes // granule_bytes) * granule_bytes
