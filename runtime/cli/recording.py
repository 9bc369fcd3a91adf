"""Running the step that is to be recorded: on which device, and how if it does not fit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.schema.errors import QuantityError
from profiles.schema.profile import CPU, CUDA
from profiles.schema.units import parse_size_bytes

if TYPE_CHECKING:
    import torch

    from profiles.hooks.workload import Workload
    from profiles.schema.profile import Link, Profile, WorkloadSource
    from profiles.schema.progress import Progress


@dataclass(frozen=True, kw_only=True)
class HowToRecord:
    """What `plan profile` was told about running the step.

    Attributes:
        device: `cpu` or `cuda`.
        beyond_capacity: Swap on line, because the step does not fit.
        limit_bytes: What it may use then; None for what the device has.
        warmup_steps: Steps before recording, at least.
        timed_steps: Steps that are timed.
        data_parallel: Run it in DistributedDataParallel, as the only worker.
    """

    device: str
    beyond_capacity: bool
    limit_bytes: int | None
    warmup_steps: int
    timed_steps: int
    data_parallel: bool = False


def read_limit_bytes(device: str, beyond_capacity: bool, limit: str | None) -> int | None:
    """Reads `--limit`.

    Raises:
        QuantityError: It is no size, or does not go with the other options.
    """
    if limit is not None and not beyond_capacity:
        raise QuantityError(
            f"--limit {limit} is for a step that does not fit. Add --beyond-capacity to record "
            "one, or leave --limit out."
        )
    if limit is None and beyond_capacity and device == CPU:
        raise QuantityError(
            "--beyond-capacity on 'cpu' needs a capacity: the device is emulated and has none of "
            "its own. Add --limit, such as --limit 300MiB."
        )
    return None if limit is None else parse_size_bytes("--limit", limit)


def record_step(
    source: "WorkloadSource", link: "Link | None", how: HowToRecord, progress: "Progress"
) -> "Profile":
    """Builds a workload on its device and records its step.

    Args:
        source: The workload.
        link: The link to store; None to measure the one at hand.
        how: How to run it.
        progress: Told how far it is.

    Raises:
        SwapplanError: The device, the workload or the link is not to be had, or the step does not
            fit.
    """
    progress("loading the workload", 0, 1)
    if not how.data_parallel:
        return _record_step(source, link, how, progress)
    if how.beyond_capacity:
        raise QuantityError(
            "--data-parallel and --beyond-capacity do not go together: what workers exchange "
            "cannot be swapped on line. Record the step where it fits."
        )
    from profiles.hooks.data_parallel import group_of_one

    with group_of_one(how.device):
        return _record_step(source, link, how, progress)


def _record_step(
    source: "WorkloadSource", link: "Link | None", how: HowToRecord, progress: "Progress"
) -> "Profile":
    from profiles.hooks.data_parallel import data_parallel
    from profiles.recording.device import build_on
    from profiles.workloads.build import build

    device = ready_device(how.device)
    workload = build_on(device, lambda: build(source))
    if how.data_parallel:
        workload = data_parallel(workload)
    progress("loading the workload", 1, 1)
    if link is not None:
        return _recorded(workload, source, link, how, progress)
    from runtime.host.numa import sharing_at_hand
    from runtime.measure.link import link_from, measure_link, measure_methods

    rows = measure_link(device, progress=progress)
    measured = link_from(rows, measure_methods(device, progress=progress))
    profile = _recorded(workload, source, measured, how, progress)
    sharing = sharing_at_hand(device) if how.device == CUDA else None
    return profile.model_copy(update={"sharing": sharing})


def _recorded(
    workload: "Workload",
    source: "WorkloadSource",
    link: "Link",
    how: HowToRecord,
    progress: "Progress",
) -> "Profile":
    from profiles.recording.record import record

    if how.beyond_capacity:
        from runtime.beyond_capacity.record import record_beyond_capacity

        return record_beyond_capacity(
            workload,
            source=source,
            link=link,
            limit_bytes=how.limit_bytes,
            warmup_steps=how.warmup_steps,
            timed_steps=how.timed_steps,
            progress=progress,
        )
    return record(
        workload,
        source=source,
        link=link,
        warmup_steps=how.warmup_steps,
        timed_steps=how.timed_steps,
        progress=progress,
    )


def ready_device(kind: str) -> "torch.device":
    """Returns a device of this machine, with the threads it computes with set.

    Raises:
        WorkloadError: There is none.
    """
    import torch

    from profiles.recording.device import compute_threads_of_emulator, device_at_hand

    device = device_at_hand(kind)
    if kind == CPU:
        torch.set_num_threads(compute_threads_of_emulator())
    return device
