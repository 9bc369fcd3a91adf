"""What a step is measured with, by kind of device."""

from dataclasses import dataclass
from functools import partial

import torch

from profiles.recording.allocator_peaks import CudaMeter, MemoryMeter
from profiles.recording.clocks import Clock, CpuClock, CudaClock
from profiles.recording.kernel_times import KernelTimer, cuda_kernels


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a step is measured with.

    Attributes:
        clock: Times points of the step on its device.
        memory: The allocator's own count; None where the trace sees every byte, as on the emulated
            accelerator, whose memory is its storages.
        kernels: Times the kernels of each op; None where an op is over when its call returns.
    """

    clock: Clock
    memory: MemoryMeter | None
    kernels: KernelTimer | None


def instruments_for(device: torch.device) -> Instruments:
    """Returns what steps on a device are measured with."""
    if device.type == "cuda":
        return Instruments(
            clock=CudaClock(device),
            memory=CudaMeter(device),
            kernels=partial(cuda_kernels, device=device),
        )
    return Instruments(clock=CpuClock(), memory=None, kernels=None)
