"""The device a step runs on: found, described, and what steps on it are measured with."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import AllocatorMeter, MemoryMeter
from profiles.recording.clocks import Clock, CpuClock, DeviceClock
from profiles.recording.kernel_times import KernelTimer, between_events, cuda_kernels
from profiles.schema.errors import CapacityError, WorkloadError
from profiles.schema.profile import CPU, CUDA, Device


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a step is measured with.

    Attributes:
        clock: Times points of the step on its device.
        memory: The allocator's own count; None where the trace sees every byte, as on the emulated
            accelerator, whose memory is its storages.
        kernels: Times the kernels of each op; None where an op is over when its call returns.
        otherwise: Times ops where that sees no kernel.
    """

    clock: Clock
    memory: MemoryMeter | None
    kernels: KernelTimer | None
    otherwise: KernelTimer | None = None


def instruments_for(device: torch.device) -> Instruments:
    """Returns what steps on a device are measured with; only CUDA says what kernels take."""
    if device.type == CPU:
        return Instruments(clock=CpuClock(), memory=None, kernels=None)
    by_events = partial(between_events, clock=DeviceClock(device))
    return Instruments(
        clock=DeviceClock(device),
        memory=AllocatorMeter(device),
        kernels=partial(cuda_kernels, device=device) if device.type == CUDA else by_events,
        otherwise=by_events,
    )


def describe_device(device: torch.device) -> Device:
    """Returns what a profile says of the device at hand."""
    if device.type == CPU:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        name, threads = _processor_name(), torch.get_num_threads()
    else:
        name, threads = device_name(device), 0
        _, memory_bytes = torch.accelerator.get_memory_info(device)
    return Device(kind=device.type, name=name, memory_bytes=memory_bytes, compute_threads=threads)


def device_name(device: torch.device) -> str:
    """Returns the name of an accelerator, as its maker has it if torch knows."""
    names = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if names is None else str(names(device))


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def compute_threads_of_emulator() -> int:
    """Returns the threads that ops run on when the `cpu` device emulates an accelerator.

    One core is left to the copy lanes, as an accelerator's copy engines take no compute core.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


def device_of(model: torch.nn.Module) -> torch.device:
    """Returns the device that a model's parameters are on.

    Raises:
        WorkloadError: The model has no parameters, or some on another device than others.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if not devices:
        raise WorkloadError("The model has no parameters; there is nothing to train.")
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise WorkloadError(
            f"The model is on {found}, expected one device. Move it to one of them."
        )
    return devices.pop()


def device_at_hand(kind: str) -> torch.device:
    """Returns this machine's device of a kind: `cpu`, or its accelerator's as torch names it.

    Raises:
        WorkloadError: There is none.
    """
    if kind == CPU:
        return torch.device(kind)
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None and found.type == kind:
        return torch.device(kind, torch.accelerator.current_device_index())
    if kind == CUDA:
        build = "has CUDA but sees no GPU" if torch.version.cuda else "was built without CUDA"
        raise WorkloadError(
            f"--device cuda needs a GPU: torch {torch.__version__} here {build}. Record on 'cpu', "
            "or name a device to estimate for."
        )
    known = "'cpu' or 'cuda'" if found is None else f"'cpu' or {found.type!r}"
    raise WorkloadError(
        f"--device {kind} is no device of this machine, expected {known} (what torch takes by "
        "default; CUDA_VISIBLE_DEVICES chooses another GPU)."
    )


def is_at_hand(kind: str) -> bool:
    """Whether this machine has a device of a kind."""
    if kind == CPU:
        return True
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type == kind


def build_on(device: torch.device, build: Callable[[], Workload]) -> Workload:
    """Builds a workload with its model on a device.

    [Note: building on a device] The builder runs with the device as torch's default, so whatever
    it makes without naming a device is made there. Its step runs without that: a default device
    costs host time in every op. So a step's own tensors must name their device, such as
    `torch.rand(n, device=inputs.device)`; and a builder that loads tensors from elsewhere (numpy,
    files, its own `torch.Generator`) puts them on `torch.get_default_device()`.

    Raises:
        WorkloadError: The model came out on another device.
        CapacityError: The device has no room for the model and its batch.
    """
    try:
        with device:
            workload = build()
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The model and its batch do not fit on {device}, even before a step: "
            f"{what_was_missing(error)}. Build a smaller one, or name a device to estimate for."
        ) from error
    for name, parameter in workload.model.named_parameters():
        if parameter.device.type != device.type:
            raise WorkloadError(
                f"parameter {name!r} is on {parameter.device}, expected {device}. Make the model "
                "on torch.get_default_device(), which is the device asked for while it is built."
            )
    return workload


def what_was_missing(error: torch.OutOfMemoryError) -> str:
    """Returns what an out-of-memory error says was missing.

    torch goes on about the settings of its allocator; the first two sentences have the figures.
    """
    return ". ".join(" ".join(str(error).split()).split(". ")[:2]).rstrip(".")
