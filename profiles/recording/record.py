"""Records one training step: one pass for what happens, others for how long and how much it takes.

Each pass is a step of its own, watched by one instrument, so that none disturbs another's figures:

1. warm-up, until the optimizer's states exist and the times of steps settle;
2. the trace: ops, storages, anchors (`trace`), of a step that finds what the one before left;
3. the time from each anchor to the next, a few times, with nothing else watching (`clocks`);
4. on a GPU, the time of each op's kernels (`kernel_times`);
5. on a GPU, the allocator's own peak in each slot (`allocator_peaks`).
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from profiles.hardware.links import known_sharing
from profiles.hooks.addresses import Listening, in_threads_of_this_step
from profiles.hooks.anchors import reporting_anchors
from profiles.hooks.named_storages import describe_model
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import MemoryMeter, SlotPeaks, with_overhead
from profiles.recording.clocks import AnchorStamps, Clock
from profiles.recording.device import (
    Instruments,
    describe_device,
    device_of,
    instruments_for,
    what_was_missing,
)
from profiles.recording.kernel_times import KernelTimer
from profiles.recording.shapes_seen import ShapesSeen, check_same_sizes
from profiles.recording.trace import StepTrace
from profiles.schema.checks import verified
from profiles.schema.errors import CapacityError, WorkloadError
from profiles.schema.files import CREATED_BY, VERSION
from profiles.schema.profile import (
    OPTIMIZER_PRE,
    Device,
    Link,
    Op,
    Profile,
    Provenance,
    Slot,
    SlotTimes,
    Storage,
    Versions,
    WorkloadSource,
)
from profiles.schema.progress import Progress, silent

SETTLED_WITHIN = 0.1
"""Two steps in a row within this share of the fastest so far: warming up makes steps faster by
more, and steps of an idle machine differ by less."""
MOST_EXTRA_STEPS = 8
"""A machine that others use may never settle; the profile then says so."""
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
        source: How to build the step again; stored in the profile, as the link is.
        warmup_steps: Steps before recording, at least; more are run until their times settle.
        timed_steps: Steps whose median gives each slot's duration; at least one.
        progress: Called at every step.
        instruments: What to measure with; those of the device if None.

    Raises:
        WorkloadError: The step takes another course each time, or never calls the optimizer.
        CapacityError: The step does not fit on the device.
    """
    tools = instruments or instruments_for(device_of(workload.model))
    progress = progress or silent
    workload = workload.held()
    try:
        recording = _recording(workload, tools, warmup_steps, timed_steps, progress)
        profile = profile_of(workload, recording, source=source, link=link)
        if tools.memory is None:
            return profile
        progress("measuring memory", 0, 1)
        return with_overhead(profile, _slot_peaks(workload, recording.anchors, tools.memory))
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The step does not fit on the device: {what_was_missing(error)}. "
            "Record it with --beyond-capacity."
        ) from error


def _recording(
    workload: Workload, tools: Instruments, warmup_steps: int, timed_steps: int, progress: Progress
) -> "Recording":
    warmed_up = warm_up(
        partial(_step_us, workload, tools.clock), least_steps=warmup_steps, progress=progress
    )
    progress("tracing", 0, 1)
    trace = StepTrace(device_of(workload.model))
    shapes = ShapesSeen(trace)

    def traced_step() -> None:
        nonlocal shapes
        shapes = ShapesSeen(trace)
        on_address = in_threads_of_this_step(trace.on_address)
        with reporting_anchors(workload, shapes), Listening(on_address), trace:
            workload.step()

    storages = trace_settled(workload, trace, traced_step, MOST_TRACED_STEPS)
    return Recording(
        durations_us=_slots_us(workload, trace, shapes, timed_steps, tools.clock, progress),
        ops=_with_kernels(workload, trace.ops, tools.kernels, progress),
        anchors=tuple(trace.anchors),
        shows=tuple(trace.shows),
        storages=storages,
        warm_up=warmed_up,
        timed_steps=timed_steps,
    )


class WarmUp(NamedTuple):
    """The steps that a warm-up took, and whether their times had settled by then."""

    steps: int
    settled: bool


def warm_up(timed_step: Callable[[], float], *, least_steps: int, progress: Progress) -> WarmUp:
    """Runs steps, at least so many, until the times in us that they return settle."""
    times_us: list[float] = []
    most_steps = least_steps + MOST_EXTRA_STEPS
    while len(times_us) < least_steps or not _has_settled(times_us):
        if len(times_us) == most_steps:
            return WarmUp(most_steps, settled=False)
        progress("warming up", len(times_us), max(least_steps, len(times_us) + 1))
        times_us.append(timed_step())
    return WarmUp(len(times_us), settled=True)


def _has_settled(times_us: list[float]) -> bool:
    """Whether the last two steps took about as long as the fastest."""
    limit_us = min(times_us, default=0.0) * (1 + SETTLED_WITHIN)
    return len(times_us) >= 2 and max(times_us[-2:]) <= limit_us


def _step_us(workload: Workload, clock: Clock) -> float:
    clock.start()
    clock.stamp()
    workload.step()
    clock.stamp()
    return sum(clock.intervals_us())


def trace_settled(
    workload: Workload, trace: StepTrace, traced_step: Callable[[], object], most_steps: int
) -> tuple[Storage, ...]:
    """Traces steps until one finds as much memory in use as it leaves, and returns its storages.

    See [Note: the step before] in `profiles.recording.trace`. Memory of a step that does not come
    to that, such as one that collects its losses, grows; the profile has the bytes by which it did.

    Raises:
        WorkloadError: The step never calls the optimizer.
    """
    for done in range(most_steps):
        trace.begin_step(workload)
        found_bytes = trace.live_bytes
        traced_step()
        if done > 0 and trace.live_bytes == found_bytes:
            break
    check_trains(trace.anchors)
    return trace.storages(workload)


def _slots_us(
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
        with reporting_anchors(workload, seen):
            workload.step()
        check_same_course(trace.anchors, stamps.keys, "anchor")
        check_same_sizes(shapes, seen)
        rounds.append(clock.intervals_us())
    progress("timing", timed_steps, timed_steps)
    return (*(median(times) for times in zip(*rounds, strict=True)), 0.0)


def _with_kernels(
    workload: Workload, ops: list[Op], kernels: KernelTimer | None, progress: Progress
) -> tuple[Op, ...]:
    """The trace only saw how long the host took to launch the ops' kernels."""
    if kernels is None:
        return tuple(ops)
    progress("timing kernels", 0, 1)
    timed = kernels(workload.step)
    check_same_course([op.name for op in ops], [op.name for op in timed], "op")
    return tuple(
        op
        if (us := found.kernel_us) is None
        else op.model_copy(update={"kernel_us": us, "duration_us": us})
        for op, found in zip(ops, timed, strict=True)
    )


def _slot_peaks(workload: Workload, anchors: Sequence[str], meter: MemoryMeter) -> tuple[int, ...]:
    peaks = SlotPeaks(meter)
    with reporting_anchors(workload, peaks):
        workload.step()
    check_same_course(anchors, peaks.keys, "anchor")
    return peaks.peaks_bytes()


def check_trains(anchors: Sequence[str]) -> None:
    """Checks that a step is a training step of its optimizer.

    Raises:
        WorkloadError: It never calls the optimizer.
    """
    if OPTIMIZER_PRE not in anchors:
        raise WorkloadError(
            "The step never calls optimizer.step(): it is no training step of this optimizer. "
            "Return the optimizer that the step uses."
        )


def check_same_course(expected: Sequence[str], found: Sequence[str], what: str) -> None:
    """Compares two runs of a step by their anchors or ops; `what` says which.

    Raises:
        WorkloadError: They differ.
    """
    if list(expected) == list(found):
        return
    pairs = zip([*expected, "nothing"], [*found, "nothing"], strict=False)
    number, (a, b) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    raise WorkloadError(
        f"The step takes another course each time: {what} {number} was {a!r}, then {b!r}. A plan "
        "needs a step that repeats; make shapes and control flow the same in every step."
    )


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is known of a step once all passes are over.

    Attributes:
        anchors: Keys of the anchors, in order.
        shows: The storage each of them shows.
        durations_us: Duration of the slot that each of them opens; None if a slot takes what its
            ops take together.
        timed_steps: Steps behind each duration.
    """

    ops: tuple[Op, ...]
    anchors: tuple[str, ...]
    shows: tuple[int | None, ...]
    durations_us: tuple[float, ...] | None = None
    storages: tuple[Storage, ...]
    warm_up: WarmUp
    timed_steps: int

    def slots(self) -> tuple[Slot, ...]:
        """Returns the slots, without any overhead beyond the storages."""
        durations_us = list(self.durations_us or [0.0] * len(self.anchors))
        if self.durations_us is None:
            for op in self.ops:
                durations_us[op.slot] += op.duration_us
        return tuple(
            Slot(anchor=key, shows=shows, duration_us=duration_us, overhead_bytes=0)
            for key, shows, duration_us in zip(self.anchors, self.shows, durations_us, strict=True)
        )


def profile_of(
    workload: Workload,
    recording: Recording,
    *,
    source: WorkloadSource,
    link: Link,
    times: Provenance = Provenance.MEASURED,
    device: Device | None = None,
) -> Profile:
    """Returns the profile of a recorded step, without any overhead beyond its storages.

    The device is the one that the model is on, if None.
    """
    model = describe_model(workload.model, workload.optimizer)
    summed = recording.durations_us is None
    versions = Versions(swapplan=VERSION, torch=torch.__version__, python=platform.python_version())
    profile = Profile(
        format=Profile.FORMAT,
        version=Profile.VERSION,
        created_by=CREATED_BY,
        workload=source,
        model_fingerprint=model.fingerprint(),
        device=device or describe_device(device_of(workload.model)),
        link=link,
        sharing=known_sharing(link),
        versions=versions,
        times=times,
        slot_times=SlotTimes.SUM_OF_OPS if summed else SlotTimes.BETWEEN_ANCHORS,
        warmup_steps=recording.warm_up.steps,
        settled=recording.warm_up.settled,
        timed_steps=recording.timed_steps,
        ops=recording.ops,
        slots=recording.slots(),
        storages=recording.storages,
        model=model,
    )
    return verified(profile)
