"""The device that checks and benchmarks run on: how memory is counted and limited there.

On CUDA the allocator counts, and a budget is enforced as a share of the device's memory. On the CPU
the emulated device's accountant does both; it is there so that the same code runs without a GPU,
and what the baselines hold on its host counts as device memory, since both are the same memory.
"""

import platform
from typing import Protocol

import torch

from profiles.hardware.links import EMULATED
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on, compute_threads_of_emulator
from profiles.schema.profile import Link, WorkloadSource
from profiles.workloads.build import build
from runtime.lanes.measure import link_from, measure_link, measure_methods
from runtime.proof.limited_device import LimitedAccelerator, LimitedDevice, LimitedEmulator


class BenchDevice(LimitedDevice, Protocol):
    """A device under test, on which workloads are built."""

    def build(self, source: WorkloadSource) -> Workload:
        """Builds a workload there, from its seed."""

    def link(self) -> Link:
        """Returns the link between host and device."""

    def describe(self) -> dict[str, str]:
        """Says what this is, for the head of a result."""


class BenchAccelerator(LimitedAccelerator):
    """An accelerator of this machine."""

    def build(self, source: WorkloadSource) -> Workload:
        """Builds on the accelerator."""
        return build_on(self.device, lambda: build(source))

    def link(self) -> Link:
        """Measures the link; some ten seconds."""
        return link_from(measure_link(self.device), measure_methods(self.device))

    def describe(self) -> dict[str, str]:
        """The accelerator, its driver's CUDA, torch and Python."""
        about = self._module.get_device_properties(self.device)
        return {
            "device": about.name,
            "memory_bytes": str(about.total_memory),
            "cuda": str(torch.version.cuda),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


class BenchEmulator(LimitedEmulator):
    """The emulated accelerator; its figures say nothing about a GPU."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(compute_threads_of_emulator())

    def build(self, source: WorkloadSource) -> Workload:
        """Builds in host memory."""
        return build(source)

    def link(self) -> Link:
        """The link that the emulated device keeps to."""
        return EMULATED

    def describe(self) -> dict[str, str]:
        """The processor's part in it, torch and Python."""
        return {
            "device": "cpu, an emulated accelerator",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
