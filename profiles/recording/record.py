"""Records one training step: one pass for what happens, others for how long and how much it takes.

Each pass is a step of its own, watched by one instrument, so that none disturbs another's figures:

1. warm-up, until the optimizer's states exist and the times of steps settle;
2. the trace: ops, storages, anchors (`profiles.recording.trace`), of a step that finds what the one
before
   left;
3. the time from each anchor to the next, a few times, with nobody else watching (`stamps`);
4. on a GPU, the time of each op's kernels (`kernels`);
5. on a GPU, the allocator's own peak in each slot (`slot_peaks`).
"""

from contextlib import ExitStack
from statistics import median

import torch

from profiles.hooks.addresses import Listening
from profiles.hooks.anchors import AnchorListener
from profiles.hooks.dispatch import storages_of
from profiles.hooks.named_storages import owned_storages, storages_by_module
from profiles.hooks.reached import reached_tensors
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import MemoryMeter, SlotPeaks, with_overhead
from profiles.recording.clocks import AnchorStamps, Clock
from profiles.recording.device import what_was_missing
from profiles.recording.instruments import Instruments, instruments_for
from profiles.recording.kernel_times import KernelTimer
from profiles.recording.recorded_profile import (
    Recording,
    check_same_course,
    check_trains,
    device_of,
    profile_of,
    watch_anchors,
)
from profiles.recording.shapes_seen import ShapesSeen, check_same_sizes
from profiles.recording.trace import StepTrace
from profiles.recording.warm_up import step_timer, warm_up
from profiles.schema.errors import CapacityError
from profiles.schema.profile import Link, Op, Profile, SlotTimes, Storage, WorkloadSource
from profiles.schema.progress import Progress, silent

MOST_TRACED_STEPS = 10
"""Memory that has not settled by then is taken to grow for good."""


def record(
    workload: Workload,
    *,
    source: WorkloadSource,
    link: Link,
    warmup_steps: int = 2,
    timed_steps: int = 3,
    progress: Progress | None = None,
    instruments: Instruments | None = None,
) -> Profile:
    """Runs a training step a few times and returns what one step does.

    The steps are real: they train the model, on the device that it is on.

    Args:
        workload: The step to record.
        source: How to build it again; stored in the profile.
        link: The link stored in the profile.
        warmup_steps: Steps before recording, at least; more are run until their times settle.
        timed_steps: Steps whose median gives each slot's duration; at least one.
        progress: Told of every step.
        instruments: What to measure with; those of the device if None.

    Returns:
        The profile.

    Raises:
        WorkloadError: The step takes another course each time, or never calls the optimizer.
        CapacityError: The step does not fit on the device.
    """
    tools = instruments or instruments_for(device_of(workload.model))
    tell = progress or silent
    try:
        return _record(workload, source, link, warmup_steps, timed_steps, tell, tools)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The step does not fit on the device: {what_was_missing(error)}. "
            "Record it with --beyond-capacity."
        ) from error


def _record(
    workload: Workload,
    source: WorkloadSource,
    link: Link,
    warmup_steps: int,
    timed_steps: int,
    progress: Progress,
    tools: Instruments,
) -> Profile:
    workload = workload.held()
    timer = step_timer(tools.clock, workload.step)
    warmed_up = warm_up(timer, least_steps=warmup_steps, progress=progress)
    progress("tracing", 0, 1)
    trace, shapes, storages = _trace(workload)
    recording = Recording(
        durations_us=_slot_durations_us(
            workload, trace, shapes, timed_steps, tools.clock, progress
        ),
        ops=_with_kernels(workload, trace.ops, tools.kernels, progress),
        anchors=tuple(trace.anchors),
        shows=tuple(trace.shows),
        storages=storages,
        slot_times=SlotTimes.BETWEEN_ANCHORS,
        warm_up=warmed_up,
        timed_steps=timed_steps,
    )
    profile = profile_of(workload, recording, source=source, link=link)
    if tools.memory is None:
        return profile
    progress("measuring memory", 0, 1)
    return with_overhead(profile, _slot_peaks(workload, trace.anchors, tools.memory))


def _trace(workload: Workload) -> tuple[StepTrace, ShapesSeen, tuple[Storage, ...]]:
    """Traces steps until one finds as much memory in use as it leaves, and returns that one.

    See [Note: the step before] in `profiles.recording.trace`. Memory of a step that does not come
    to that, such as one that collects its losses, grows; the profile has the bytes by which it did.
    """
    trace = StepTrace(device_of(workload.model))
    shapes = ShapesSeen(trace)
    for done in range(MOST_TRACED_STEPS):
        reached = storages_of(reached_tensors(workload), device_of(workload.model))
        trace.begin_step(
            owned_storages(workload.model, workload.optimizer),
            reached,
            storages_by_module(workload.model),
        )
        found_bytes = trace.live_bytes
        shapes = ShapesSeen(trace)
        with ExitStack() as watched:
            watch_anchors(workload, shapes, watched)
            watched.enter_context(Listening(trace.on_address))
            watched.enter_context(trace)
            workload.step()
        if done > 0 and trace.live_bytes == found_bytes:
            break
    check_trains(trace.anchors)
    storages = trace.storages(owned_storages(workload.model, workload.optimizer))
    return trace, shapes, storages


def _slot_durations_us(
    workload: Workload,
    trace: StepTrace,
    shapes: ShapesSeen,
    timed_steps: int,
    clock: Clock,
    progress: Progress,
) -> tuple[float, ...]:
    """Median time from each anchor to the next, in steps without the trace; 0 for the last."""
    rounds: list[list[float]] = []
    for done in range(timed_steps):
        progress("timing", done, timed_steps)
        stamps = AnchorStamps(clock)
        seen = ShapesSeen(stamps)
        _run(workload, seen)
        check_same_course(trace.anchors, stamps.keys, "anchor")
        check_same_sizes(shapes, seen)
        rounds.append(clock.intervals_us())
    progress("timing", timed_steps, timed_steps)
    return (*(median(times) for times in zip(*rounds, strict=True)), 0.0)


def _slot_peaks(workload: Workload, anchors: list[str], meter: MemoryMeter) -> tuple[int, ...]:
    peaks = SlotPeaks(meter)
    _run(workload, peaks)
    check_same_course(anchors, peaks.keys, "anchor")
    return peaks.peaks_bytes()


def _with_kernels(
    workload: Workload, ops: list[Op], kernels: KernelTimer | None, progress: Progress
) -> tuple[Op, ...]:
    if kernels is None:
        return tuple(ops)
    progress("timing kernels", 0, 1)
    timed = kernels(workload.step)
    check_same_course([op.name for op in ops], [op.name for op in timed], "op")
    return tuple(_timed(op, found.kernel_us) for op, found in zip(ops, timed, strict=True))


def _timed(op: Op, kernel_us: float | None) -> Op:
    """The trace only saw how long the host took to launch the op's kernels."""
    if kernel_us is None:
        return op
    return op.model_copy(update={"kernel_us": kernel_us, "duration_us": kernel_us})


def _run(workload: Workload, listener: AnchorListener) -> None:
    with ExitStack() as watched:
        watch_anchors(workload, listener, watched)
        workload.step()
