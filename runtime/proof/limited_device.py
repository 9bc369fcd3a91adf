"""A GPU that trainings are measured on: how memory is counted and limited there.

The allocator counts, and a budget is enforced as a share of the device's memory.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from profiles.hooks.workload import Workload
from runtime.lanes.emulated import NS_PER_US

Around = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """One step, measured.

    Attributes:
        step_us: From a device at rest to a device at rest.
        peak_bytes: Most bytes allocated on the device.
        reserved_bytes: Most bytes the allocator held; None where there is no such allocator.
    """

    step_us: float
    peak_bytes: int
    reserved_bytes: int | None


class LimitedDevice(Protocol):
    """A device under test.

    Attributes:
        device: The device.
    """

    device: torch.device

    def limit(self, budget_bytes: int) -> AbstractContextManager[None]:
        """Lets whatever takes more than so many bytes run out of memory."""

    def measure(self, workload: Workload, around: Around) -> StepFigures:
        """Runs one step and measures it."""

    def tidy(self) -> None:
        """Gives back what nobody holds any more."""


class LimitedGpu:
    """A GPU."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device = device
        self._cuda = cuda

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        """Caps what the allocator may reserve, which is a little more than what is allocated."""
        self.tidy()
        total_bytes = self._cuda.get_device_properties(self.device).total_memory
        share = min(1.0, budget_bytes / total_bytes)
        self._cuda.set_per_process_memory_fraction(share, self.device)
        try:
            yield
        finally:
            self._cuda.set_per_process_memory_fraction(1.0, self.device)

    def measure(self, workload: Workload, around: Around) -> StepFigures:
        """Times between two synchronisations, and asks the allocator."""
        self._cuda.synchronize(self.device)
        self._cuda.reset_peak_memory_stats(self.device)
        start_ns = time.perf_counter_ns()
        with around():
            workload.step()
        self._cuda.synchronize(self.device)
        return StepFigures(
            step_us=(time.perf_counter_ns() - start_ns) / NS_PER_US,
            peak_bytes=self._cuda.max_memory_allocated(self.device),
            reserved_bytes=self._cuda.max_memory_reserved(self.device),
        )

    def tidy(self) -> None:
        """Returns the allocator's free blocks to the device, too."""
        gc.collect()
        self._cuda.synchronize(self.device)
        self._cuda.empty_cache()
