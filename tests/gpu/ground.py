"""The device that checks and benchmarks run on: how memory is counted and limited there.

On CUDA the allocator counts, and a budget is enforced as a share of the device's memory. On the CPU
the emulated device's accountant does both; it is there so that the same code runs without a GPU,
and what the baselines hold on its host counts as device memory, since both are the same memory.
"""

import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from profiles.device import build_on, compute_threads_of_emulator
from profiles.hardware import EMULATED
from profiles.owned import owned_storages
from profiles.profile import Link, WorkloadSource
from profiles.workload import Workload
from profiles.workloads.build import build
from runtime.accountant import Accountant
from runtime.lanes import NS_PER_US
from runtime.link_measure import link_from, measure_link

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


class Ground(Protocol):
    """A device under test.

    Attributes:
        device: The device.
    """

    device: torch.device

    def build(self, source: WorkloadSource) -> Workload:
        """Builds a workload there, from its seed."""

    def link(self) -> Link:
        """Returns the link between host and device."""

    def limit(self, budget_bytes: int) -> AbstractContextManager[None]:
        """Lets whatever takes more than so many bytes run out of memory."""

    def measure(self, workload: Workload, around: Around) -> StepFigures:
        """Runs one step and measures it."""

    def tidy(self) -> None:
        """Gives back what nobody holds any more."""

    def describe(self) -> dict[str, str]:
        """Says what this is, for the head of a result."""


class CudaGround:
    """The GPU at hand."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    def build(self, source: WorkloadSource) -> Workload:
        """Builds on the GPU."""
        return build_on(self.device, lambda: build(source))

    def link(self) -> Link:
        """Measures the link; some ten seconds."""
        return link_from(measure_link(self.device))

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        """Caps what the allocator may reserve, which is a little more than what is allocated."""
        self.tidy()
        total_bytes = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(budget_bytes / total_bytes, self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def measure(self, workload: Workload, around: Around) -> StepFigures:
        """Times between two synchronisations, and asks the allocator."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        start_ns = time.perf_counter_ns()
        with around():
            workload.step()
        torch.cuda.synchronize()
        return StepFigures(
            step_us=(time.perf_counter_ns() - start_ns) / NS_PER_US,
            peak_bytes=torch.cuda.max_memory_allocated(self.device),
            reserved_bytes=torch.cuda.max_memory_reserved(self.device),
        )

    def tidy(self) -> None:
        """Returns the allocator's free blocks to the device, too."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        """The GPU, its driver's CUDA, torch and Python."""
        about = torch.cuda.get_device_properties(self.device)
        return {
            "device": about.name,
            "memory_bytes": str(about.total_memory),
            "cuda": str(torch.version.cuda),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


class CpuGround:
    """The emulated accelerator; its figures say nothing about a GPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._budget_bytes: int | None = None
        torch.set_num_threads(compute_threads_of_emulator())

    def build(self, source: WorkloadSource) -> Workload:
        """Builds in host memory."""
        return build(source)

    def link(self) -> Link:
        """The link that the emulated device keeps to."""
        return EMULATED

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        """The accountant raises above the budget."""
        self._budget_bytes = budget_bytes
        try:
            yield
        finally:
            self._budget_bytes = None

    def measure(self, workload: Workload, around: Around) -> StepFigures:
        """Times a watched step; a replay counts for itself."""
        accountant = Accountant(self.device, self._budget_bytes)
        start_ns = time.perf_counter_ns()
        with around() as replayed:
            if replayed is None or not hasattr(replayed, "peak_bytes"):
                accountant.count_owned(owned_storages(workload.model, workload.optimizer))
                watch: AbstractContextManager[None] = accountant.watch()
            else:
                watch = nullcontext()
            with watch:
                workload.step()
        return StepFigures(
            step_us=(time.perf_counter_ns() - start_ns) / NS_PER_US,
            peak_bytes=getattr(replayed, "peak_bytes", accountant.peak_bytes),
            reserved_bytes=None,
        )

    def tidy(self) -> None:
        """Collects garbage."""
        gc.collect()

    def describe(self) -> dict[str, str]:
        """The processor's part in it, torch and Python."""
        return {
            "device": "cpu, an emulated accelerator",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
