"""What the device's allocator holds in each slot, beyond the storages that the trace can see.

The trace counts storages at their own size. The allocator rounds them up, kernels take workspace
within an op and give it back, libraries keep some for good, and there may be tensors that no step
touches. The peak of each slot, by the allocator's own count, has all of it.
"""

from typing import Protocol

import torch

from profiles.profile import Profile
from profiles.slot_memory import slot_memory


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


class CudaMeter:
    """The count of torch's caching allocator.

    The allocator works in program order, on the host: its peaks need no wait for the device.
    """

    granule_bytes = 512  # kMinBlockSize, c10/core/AllocatorConfig.h
    unsplit_bytes = 1 << 20  # kSmallSize there; none is left over with expandable segments

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocated_bytes(self) -> int:
        """Returns what is allocated now."""
        return torch.cuda.memory_allocated(self._device)

    def reset_peak(self) -> None:
        """Starts a new peak at what is allocated now."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """Returns the most bytes allocated at once since the last reset."""
        return torch.cuda.max_memory_allocated(self._device)


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
        """Ends one peak and starts the next; see `profiles.anchors`."""
        if self.keys:
            self._ended_bytes.append(self._meter.peak_bytes())
        self.keys.append(key)
        self._meter.reset_peak()

    def peaks_bytes(self) -> tuple[int, ...]:
        """Returns the peak of each slot; the last slot's ends now."""
        return (*self._ended_bytes, self._meter.peak_bytes())


def with_overhead(profile: Profile, peaks_bytes: tuple[int, ...]) -> Profile:
    """Returns the profile with what each slot needs beyond its storages.

    Args:
        profile: A profile without any overhead.
        peaks_bytes: The measured peak of each slot.
    """
    traced = slot_memory(profile)
    slots = tuple(
        # A storage that the allocator does not hold, such as mapped memory, is in the trace only.
        slot.model_copy(update={"overhead_bytes": max(0, peak_bytes - memory.resident_bytes)})
        for slot, memory, peak_bytes in zip(profile.slots, traced, peaks_bytes, strict=True)
    )
    return profile.model_copy(update={"slots": slots})
