"""`plan profile`: records one training step."""

from typing import Annotated

import typer

from planner.cli.options import (
    D2hBandwidth,
    H2dBandwidth,
    MeasurableLinkName,
    OutputFile,
    Seed,
    Settings,
    Workload,
    parse_settings,
)
from planner.cli.output import progress_bars, wrote
from profiles.schema.profile import CPU
from runtime.cli.estimating import check_estimates, estimate_step, is_estimated, usual_link
from runtime.cli.recording import HowToRecord, read_limit_bytes, record_step


def profile(
    workload: Workload,
    output: OutputFile,
    setting: Settings = None,
    seed: Seed = 0,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where to run the step: 'cpu' (the emulated accelerator) or 'cuda' (the GPU); or "
            "an accelerator to estimate it for, with nothing run, such as h200 (see 'plan "
            "devices').",
        ),
    ] = CPU,
    link: MeasurableLinkName = None,
    d2h_bandwidth: D2hBandwidth = None,
    h2d_bandwidth: H2dBandwidth = None,
    warmup: Annotated[
        int,
        typer.Option(
            min=1, help="Steps before recording, at least; more run until their times settle."
        ),
    ] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 3,
    beyond_capacity: Annotated[
        bool,
        typer.Option(
            "--beyond-capacity",
            help="The step does not fit on the device: swap on line while recording, and time each "
            "op on its own.",
        ),
    ] = False,
    data_parallel: Annotated[
        bool,
        typer.Option(
            "--data-parallel",
            help="Record the step in DistributedDataParallel, as every data-parallel worker runs "
            "it: for plans that 'plan run --workers' and torchrun replay.",
        ),
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="With --beyond-capacity: what the step may use, such as 300MiB; on 'cuda' it is "
            "what the GPU has free, unless given.",
        ),
    ] = None,
) -> None:
    """Records one training step, or estimates it: ops, storages, anchors, times."""
    from planner.cli.link import choose_link, is_to_be_measured
    from profiles.hardware.links import EMULATED
    from profiles.schema.files import check_writable
    from profiles.schema.profile import WorkloadSource
    from profiles.schema.profile_file import write_profile
    from profiles.workloads.build import check

    source = WorkloadSource(reference=workload, settings=parse_settings(setting), seed=seed)
    how = HowToRecord(
        device=device,
        beyond_capacity=beyond_capacity,
        limit_bytes=read_limit_bytes(device, beyond_capacity, limit),
        warmup_steps=warmup,
        timed_steps=steps,
        data_parallel=data_parallel,
    )
    estimated = is_estimated(device)
    if estimated:
        check_estimates(how)
    chosen = None
    if estimated or not is_to_be_measured(device, link, d2h_bandwidth, h2d_bandwidth):
        default = usual_link(device) if estimated else EMULATED
        chosen = choose_link(default, link, d2h_bandwidth, h2d_bandwidth)
    check(source)
    check_writable(output)
    with progress_bars() as progress:
        if estimated and chosen is not None:
            recorded = estimate_step(source, chosen, device, progress)
        else:
            recorded = record_step(source, chosen, how, progress)
    write_profile(recorded, output)

    from planner.cli.report import print_profile

    print_profile(recorded, top=0)
    wrote(output)
