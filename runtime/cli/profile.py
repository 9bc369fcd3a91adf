"""`plan profile`: records one training step, or estimates it for a device that is not there."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import options
from planner.cli.course_sets import PROFILES, print_profile_set
from planner.cli.output import progress_bars, wrote
from planner.cli.output_file import check_output, of_workload
from planner.cli.request import choose_link, is_to_be_measured
from profiles.hardware.accelerators import ACCELERATORS, accelerator_named
from profiles.hardware.links import EMULATED, link_named
from profiles.schema.course_set import MOST_COURSES
from profiles.schema.errors import QuantityError
from profiles.schema.link import Sharing
from profiles.schema.profile import CPU, CUDA, Link, Profile, WorkloadSource
from profiles.schema.profile_file import write_profile
from profiles.schema.profile_set import ProfileSet, write_profile_set
from profiles.schema.progress import Progress
from profiles.schema.units import parse_size_bytes
from runtime.cli.profile_courses import check_courses, record_courses

if TYPE_CHECKING:
    import torch

    from profiles.hooks import workload as hooks

Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where to run the step: 'cpu' (the emulated accelerator), 'cuda' (the GPU), or "
        "another accelerator of this machine as torch names it; or one to estimate the step "
        "for, with nothing run, such as h200 (see 'plan devices').",
    ),
]
WarmupSteps = Annotated[
    int,
    typer.Option(
        min=1, help="Steps before recording, at least; more run until their times settle."
    ),
]
BeyondCapacity = Annotated[
    bool,
    typer.Option(
        "--beyond-capacity",
        help="The step does not fit on the device: swap on line while recording, and time each "
        "op on its own.",
    ),
]
DataParallel = Annotated[
    bool,
    typer.Option(
        "--data-parallel",
        help="Record the step in DistributedDataParallel, as every data-parallel worker runs "
        "it: for plans that 'plan run --workers' and torchrun replay.",
    ),
]
Courses = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_COURSES,
        help="The step takes so many courses, by what its first module is handed: batches of "
        "several shapes. Record each, in one file of profiles.",
    ),
]
NoCheckpointing = Annotated[
    bool,
    typer.Option(
        "--no-checkpointing",
        help="Switch off activation checkpointing that the model has, here and where a plan for "
        "this step is replayed: the plan chooses what is made again.",
    ),
]
Limit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="With --beyond-capacity: what the step may use, such as 300MiB; on 'cuda' it is "
        "what the GPU has free, unless given.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class HowToRecord:
    """How `plan profile` is to run the step, as its options say."""

    device: str
    beyond_capacity: bool
    limit_bytes: int | None
    warmup_steps: int
    timed_steps: int
    data_parallel: bool
    courses: int
    checkpointing: bool


def profile(
    workload: options.Workload,
    output: Annotated[Path | None, options.output_option("WORKLOAD.profile.json.gz here")] = None,
    setting: options.Settings = None,
    seed: options.Seed = 0,
    device: Device = CPU,
    link: options.MeasurableLinkName = None,
    d2h_bandwidth: options.D2hBandwidth = None,
    h2d_bandwidth: options.H2dBandwidth = None,
    warmup: WarmupSteps = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 3,
    beyond_capacity: BeyondCapacity = False,
    data_parallel: DataParallel = False,
    no_checkpointing: NoCheckpointing = False,
    limit: Limit = None,
    courses: Courses = 1,
) -> None:
    """Records one training step, or estimates it: ops, storages, anchors, times."""
    from profiles.workloads.build import check

    source = WorkloadSource(reference=workload, settings=options.parse_settings(setting), seed=seed)
    how = HowToRecord(
        device=device,
        beyond_capacity=beyond_capacity,
        limit_bytes=_limit_bytes(device, beyond_capacity, limit),
        warmup_steps=warmup,
        timed_steps=steps,
        data_parallel=data_parallel,
        courses=courses,
        checkpointing=not no_checkpointing,
    )
    is_estimated = not is_run_on(device)
    check_courses(
        courses,
        is_estimated=is_estimated,
        beyond_capacity=beyond_capacity,
        data_parallel=data_parallel,
    )
    if is_estimated:
        _check_estimates(how)
    chosen = None
    if is_estimated or not is_to_be_measured(device, link, d2h_bandwidth, h2d_bandwidth):
        default = usual_link(device) if is_estimated else EMULATED
        chosen = choose_link(default, link, d2h_bandwidth, h2d_bandwidth)
    check(source)
    kind, ending = (Profile, ".profile.json.gz") if courses == 1 else (ProfileSet, PROFILES)
    path = check_output(output or of_workload(workload, ending), kind)
    recorded: Profile | ProfileSet
    with progress_bars() as progress:
        if is_estimated and chosen is not None:
            recorded = estimate_step(
                source, chosen, device, progress, checkpointing=how.checkpointing
            )
        else:
            recorded = _record_step(source, chosen, how, progress)
    _write(recorded, path)
    wrote(path)


def _write(recorded: Profile | ProfileSet, path: Path) -> None:
    """Writes what was recorded, and shows it."""
    if isinstance(recorded, ProfileSet):
        write_profile_set(recorded, path)
        print_profile_set(recorded)
        return
    write_profile(recorded, path)

    from planner.cli.show import print_profile

    print_profile(recorded, top=0)


def is_run_on(device: str) -> bool:
    """Whether steps are run on a device: on this machine's; for others they are estimated."""
    if device in (CPU, CUDA):
        return True
    if device in ACCELERATORS:
        return False
    from profiles.recording.device import is_at_hand

    return is_at_hand(device)


def usual_link(device: str) -> Link:
    """Returns the usual link of an accelerator.

    Raises:
        QuantityError: There is no such accelerator.
    """
    return link_named(accelerator_named(device).link)


def estimate_step(
    source: WorkloadSource,
    link: Link,
    device: str,
    progress: Progress,
    *,
    checkpointing: bool = True,
) -> Profile:
    """Estimates the step of a workload on an accelerator of the table.

    Its own activation checkpointing is kept, or switched off.

    Raises:
        SwapplanError: There is no such accelerator, or the step cannot be estimated.
    """
    progress("loading the workload", 0, 1)
    from profiles.estimating.estimate import estimate
    from profiles.estimating.roofline import target_of
    from profiles.workloads.build import build

    return estimate(
        lambda: build(source),
        target=target_of(accelerator_named(device)),
        source=source,
        link=link,
        progress=progress,
        checkpointing=checkpointing,
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


def _limit_bytes(device: str, beyond_capacity: bool, limit: str | None) -> int | None:
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


def _check_estimates(how: HowToRecord) -> None:
    """Checks that nothing is asked of an estimate that only a device can do."""
    asked = {
        "--beyond-capacity": how.beyond_capacity,
        "--limit": how.limit_bytes is not None,
        "--data-parallel": how.data_parallel,
    }
    for option, given in asked.items():
        if given:
            raise QuantityError(
                f"{option} is for a step that is run, and one for {how.device!r} is estimated. "
                f"Leave {option} out, or record on --device cpu or cuda."
            )


def _record_step(
    source: WorkloadSource, link: Link | None, how: HowToRecord, progress: Progress
) -> Profile | ProfileSet:
    """Builds a workload on its device and records its step; measures the link if there is none.

    Raises:
        SwapplanError: The device, the workload or the link is not to be had, or the step does not
            fit.
    """
    progress("loading the workload", 0, 1)
    if how.data_parallel and how.beyond_capacity:
        raise QuantityError(
            "--data-parallel and --beyond-capacity do not go together: what workers exchange "
            "cannot be swapped on line. Record the step where it fits."
        )
    from profiles.hooks.data_parallel import data_parallel, group_of_one
    from profiles.recording.device import build_on
    from profiles.workloads.build import build

    with group_of_one(how.device) if how.data_parallel else nullcontext():
        device = ready_device(how.device)
        workload = build_on(device, lambda: build(source))
        if how.data_parallel:
            workload = data_parallel(workload)
        progress("loading the workload", 1, 1)
        if link is not None:
            return _recorded(workload, source, link, how, progress)
        from runtime.host.numa import sharing_at_hand
        from runtime.lanes.measure import link_from, measure_link, measure_methods

        rows = measure_link(device, progress=progress)
        measured = link_from(rows, measure_methods(device, progress=progress))
        recorded = _recorded(workload, source, measured, how, progress)
        sharing = sharing_at_hand(device) if how.device == CUDA else None
        return _with_sharing(recorded, sharing)


def _with_sharing(recorded: Profile | ProfileSet, sharing: Sharing | None) -> Profile | ProfileSet:
    if isinstance(recorded, Profile):
        return recorded.model_copy(update={"sharing": sharing})
    courses = tuple(
        one.model_copy(update={"profile": one.profile.model_copy(update={"sharing": sharing})})
        for one in recorded.courses
    )
    return recorded.model_copy(update={"courses": courses})


def _recorded(
    workload: "hooks.Workload",
    source: WorkloadSource,
    link: Link,
    how: HowToRecord,
    progress: Progress,
) -> Profile | ProfileSet:
    if how.courses > 1:
        steps = (how.warmup_steps, how.timed_steps)
        return record_courses(
            *(workload, source, link, how.courses, steps, progress),
            checkpointing=how.checkpointing,
        )
    recording: Callable[..., Profile]
    if how.beyond_capacity:
        from runtime.beyond_capacity.record import record_beyond_capacity

        recording = partial(record_beyond_capacity, limit_bytes=how.limit_bytes)
    else:
        from profiles.recording.record import record as recording
    return recording(
        workload,
        source=source,
        link=link,
        warmup_steps=how.warmup_steps,
        timed_steps=how.timed_steps,
        progress=progress,
        checkpointing=how.checkpointing,
    )
