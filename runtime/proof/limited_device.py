"""Devices that trainings are measured on: how memory is counted and limited there.

On an accelerator the allocator counts, and a budget is enforced as a share of its memory. On the
CPU the emulated device's accountant does both.
"""

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from profiles.hooks.dispatch import storages_of
from profiles.hooks.mode_stack import unseen
from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload, reached_tensors
from profiles.schema.units import NS_PER_US
from runtime.replay.statistics import StepStatistics
from runtime.storage.accountant import Accountant

Around = Callable[[], AbstractContextManager[object]]
SAMPLE_SECONDS = 0.005
KIB = 1024


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """One step, measured.

    Attributes:
        step_us: From a device at rest to a device at rest.
        peak_bytes: Most bytes allocated on the device; 0 if they were not counted.
        reserved_bytes: Most bytes the allocator held; None where there is no such allocator.
        resident_bytes: Most anonymous bytes seen in host memory; 0 where they are not sampled.
    """

    step_us: float
    peak_bytes: int
    reserved_bytes: int | None
    resident_bytes: int = 0


class LimitedDevice(Protocol):
    """A device under test.

    Attributes:
        device: The device.
        in_host_memory: Whether its memory is the host's: then two trainings have room beside each
            other, and the host sees how long copies take.
        advice: What to do if a training runs out of memory under its plan.
    """

    device: torch.device
    in_host_memory: bool
    advice: str

    def limit(self, budget_bytes: int) -> AbstractContextManager[None]:
        """Lets whatever takes more than so many bytes run out of memory."""

    def measure(self, workload: Workload, around: Around, *, watched: bool = True) -> StepFigures:
        """Runs one step inside `around()` and measures it; its memory only if it is watched."""

    def tidy(self) -> None:
        """Gives back what is no longer held."""


class LimitedAccelerator:
    """An accelerator, which counts its memory at no cost: every step is watched."""

    in_host_memory = False
    advice = (
        "The allocator's free memory may lie in pieces: set PYTORCH_CUDA_ALLOC_CONF="
        "expandable_segments:True, or solve for a lower budget. If the step has changed since "
        "it was recorded, record it again with 'plan profile'."
    )

    def __init__(self, device: torch.device, module: Any = None) -> None:
        """`module` is what torch offers for the device's kind, unless it is a stand-in for that."""
        self.device = device
        self._module = module or torch.get_device_module(device)

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        """Caps what the allocator may reserve, which is a little more than what is allocated."""
        self.tidy()
        total_bytes = self._module.get_device_properties(self.device).total_memory
        share = min(1.0, budget_bytes / total_bytes)
        self._module.set_per_process_memory_fraction(share, self.device)
        try:
            yield
        finally:
            self._module.set_per_process_memory_fraction(1.0, self.device)

    def measure(self, workload: Workload, around: Around, *, watched: bool = True) -> StepFigures:
        """Times between two synchronisations, and asks the allocator."""
        self._module.synchronize(self.device)
        self._module.reset_peak_memory_stats(self.device)
        start_ns = time.perf_counter_ns()
        with around():
            workload.step()
        self._module.synchronize(self.device)
        return StepFigures(
            step_us=(time.perf_counter_ns() - start_ns) / NS_PER_US,
            peak_bytes=self._module.max_memory_allocated(self.device),
            reserved_bytes=self._module.max_memory_reserved(self.device),
        )

    def tidy(self) -> None:
        """Returns the allocator's free blocks to the device, too."""
        gc.collect()
        self._module.synchronize(self.device)
        self._module.empty_cache()


class LimitedEmulator:
    """The emulated device: an accountant for each model counts, and raises above the budget."""

    in_host_memory = True
    advice = "Solve again with a smaller budget than the device has."

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._budget_bytes: int | None = None
        self._accountants: WeakKeyDictionary[torch.nn.Module, Accountant] = WeakKeyDictionary()

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        """The accountants raise above the budget."""
        self._budget_bytes = budget_bytes
        try:
            yield
        finally:
            self._budget_bytes = None

    def measure(self, workload: Workload, around: Around, *, watched: bool = True) -> StepFigures:
        """Times a step, and counts unless a replay does."""
        accountant = self._accountant_of(workload)
        memory = accountant.memory
        if watched:
            memory.count(reached_storages(workload, self.device))
        with sampled_resident_set() if watched else nullcontext(lambda: 0) as resident_bytes:
            start_ns = time.perf_counter_ns()
            with around() as replayed:
                counts = watched and not isinstance(replayed, StepStatistics)
                if counts:
                    memory.count_owned(owned_storages(workload.model, workload.optimizer))
                with accountant if counts else nullcontext():
                    workload.step()
            step_us = (time.perf_counter_ns() - start_ns) / NS_PER_US
        peak_bytes = memory.peak_bytes if counts else getattr(replayed, "peak_bytes", None)
        return StepFigures(
            step_us=step_us,
            peak_bytes=peak_bytes or 0,
            reserved_bytes=None,
            resident_bytes=resident_bytes(),
        )

    def tidy(self) -> None:
        """Has the C allocator hand its free pages to the operating system, too."""
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError):
            # Not the GNU C library: the figures then include what its allocator keeps.
            return

    def _accountant_of(self, workload: Workload) -> Accountant:
        known = self._accountants.get(workload.model)
        if known is None:
            known = self._accountants[workload.model] = Accountant(self.device, None)
        known.budget_bytes = self._budget_bytes
        return known


def reached_storages(workload: Workload, device: torch.device) -> list[torch.UntypedStorage]:
    """What the step can reach is on the device, whether an op has touched it or not.

    Looked for before each step: another thread may have fetched a batch since the last one. A
    guard between steps does not see it, and brings nothing back for it.
    """
    with unseen(), torch._C.DisableTorchFunction():
        reached = reached_tensors(workload.model, workload.optimizer, workload.step)
        return storages_of(reached, device)


@contextmanager
def sampled_resident_set() -> Iterator[Callable[[], int]]:
    """Samples the anonymous resident memory from a thread while the body runs.

    Anonymous pages are the emulated device and the interpreter; the host pool is shared memory
    and counted apart (`runtime.host.host_pool`). Short peaks can be missed.

    Yields:
        What returns the most bytes seen; 0 where the system does not say (other than Linux).
    """
    seen, done = [0], threading.Event()

    def sample() -> None:
        while True:
            seen[0] = max(seen[0], anonymous_bytes())
            if done.wait(SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, name="swapplan-rss", daemon=True)
    thread.start()
    try:
        yield lambda: seen[0]
    finally:
        done.set()
        thread.join()


def anonymous_bytes() -> int:
    """Returns the anonymous resident bytes of this process now; 0 where unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    values = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(values[0]) * KIB if values else 0
