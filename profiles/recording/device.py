"""The device a step runs on, and how the `cpu` device stands in for an accelerator."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from profiles.hooks.workload import Workload
from profiles.schema.errors import CapacityError, WorkloadError
from profiles.schema.profile import Device


def compute_threads_of_emulator() -> int:
    """Threads that ops run on when the `cpu` device emulates an accelerator.

    One core is left to the copy lanes, as an accelerator's copy engines take no compute core.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


def device_at_hand(kind: str) -> torch.device:
    """Returns this machine's device of a kind.

    Args:
        kind: `cpu` or `cuda`.

    Raises:
        WorkloadError: There is none.
    """
    if kind == "cpu":
        return torch.device(kind)
    if kind != "cuda":
        raise WorkloadError(
            f"--device {kind} is no device of this machine, expected 'cpu' or 'cuda' (the GPU that "
            "torch takes by default; CUDA_VISIBLE_DEVICES chooses another)."
        )
    if not torch.cuda.is_available():
        build = "has CUDA but sees no GPU" if torch.version.cuda else "was built without CUDA"
        raise WorkloadError(
            f"--device cuda needs a GPU: torch {torch.__version__} here {build}. Record on 'cpu', "
            "or name a device to estimate for."
        )
    return torch.device("cuda", torch.cuda.current_device())


def build_on(device: torch.device, build: Callable[[], Workload]) -> Workload:
    """Builds a workload with its model on a device.

    [Note: building on a device] The builder runs with the device as torch's default, so whatever
    it makes without naming a device is born there. Its step runs without that: a default device
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


def describe_device(device: torch.device) -> Device:
    """Returns what a profile says of the device at hand."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return Device(
            kind=device.type, name=about.name, memory_bytes=about.total_memory, compute_threads=0
        )
    return Device(
        kind=device.type,
        name=_processor_name(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        compute_threads=torch.get_num_threads(),
    )


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
