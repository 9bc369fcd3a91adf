"""Records a step that does not fit: storages are swapped on line, each op is timed on its own.

Ops, storages, lifetimes and anchors are those of the resident step, as the program is the same and
the trace sees neither copies nor where bytes are. What cannot be had is the time from anchor to
anchor, which would be mostly copies: a slot takes as long as its ops together, without what Python
does between them. On a GPU each op is launched on an idle device, so short ops take their launch
too; and fresh memory is slower than memory that was used before, on a CPU above all.
"""

from statistics import median

from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import with_op_overhead
from profiles.recording.device import Instruments, device_of, instruments_for
from profiles.recording.record import Recording, check_same_course, profile_of, warm_up
from profiles.recording.shapes_seen import check_same_sizes
from profiles.schema.profile import Link, Profile, WorkloadSource
from profiles.schema.progress import Progress, silent
from runtime.beyond_capacity.limited_steps import LimitedSteps, SeenStep


def record_beyond_capacity(
    workload: Workload,
    *,
    source: WorkloadSource,
    link: Link,
    limit_bytes: int | None,
    warmup_steps: int = 2,
    timed_steps: int = 3,
    progress: Progress | None = None,
    instruments: Instruments | None = None,
) -> Profile:
    """Runs a training step a few times within a limit and returns what one step does.

    Args:
        workload: The step to record. Between steps it must fit on the device no more than within
            one; what has to wait on the host does. All of it is brought back at the end.
        source: How to build it again; stored in the profile.
        link: The link stored in the profile.
        limit_bytes: Device bytes the step may use; None for what the device has free.
        warmup_steps: Steps before recording, at least; more are run until op times settle.
        timed_steps: Steps whose median gives each op's duration; at least one.
        progress: Told of every step.
        instruments: What to measure with; those of the device if None.

    Returns:
        The profile.

    Raises:
        CapacityError: An op does not fit even with everything else on the host.
        WorkloadError: The step takes another course each time, or never calls the optimizer.
    """
    tell = progress or silent
    tools = instruments or instruments_for(device_of(workload.model))
    with LimitedSteps(workload, limit_bytes, tools) as limited:
        warmed_up = warm_up(
            lambda: sum(limited.run().durations_us), least_steps=warmup_steps, progress=tell
        )
        steps: list[SeenStep] = []
        for done in range(timed_steps):
            tell("recording op by op", done, timed_steps)
            steps.append(limited.run())
            check_same_course(list(steps[0].anchors), list(steps[-1].anchors), "anchor")
            check_same_sizes(steps[0].shapes, steps[-1].shapes)
            check_same_course(steps[0].op_names, steps[-1].op_names, "op")
        tell("recording op by op", timed_steps, timed_steps)
    durations_us = [median(times) for times in zip(*(s.durations_us for s in steps), strict=True)]
    seen = steps[-1]
    recording = Recording(
        ops=tuple(
            op.model_copy(update={"duration_us": duration_us})
            for op, duration_us in zip(seen.ops, durations_us, strict=True)
        ),
        anchors=seen.anchors,
        shows=seen.shows,
        storages=seen.storages,
        warm_up=warmed_up,
        timed_steps=timed_steps,
    )
    profile = profile_of(workload, recording, source=source, link=link)
    if tools.memory is None:
        return profile
    return with_op_overhead(
        profile,
        granule_bytes=tools.memory.granule_bytes,
        unsplit_bytes=tools.memory.unsplit_bytes,
        held_bytes=seen.held_bytes,
        workspaces_bytes=seen.workspaces_bytes,
    )
