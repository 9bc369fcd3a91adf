"""Records a step that does not fit: storages are swapped on line, each op is timed on its own.

Ops, storages, lifetimes and anchors are those of the resident step, as the program is the same and
the trace sees neither copies nor where bytes are. What cannot be had is the time from anchor to
anchor, which would be mostly copies: a slot takes as long as its ops together, without what Python
does between them. On a GPU each op is launched on an idle device, so short ops take their launch
too; and fresh memory is slower than memory that was used before, on a CPU above all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.workload import Training, Workload
from profiles.recording.allocator_peaks import with_op_overhead
from profiles.recording.device import Instruments, device_of, instruments_for
from profiles.recording.passes import Held, WarmUpPass
from profiles.recording.recorder import IN_A_LOOP
from profiles.recording.recording import Recording, check_same_course, profile_of
from profiles.recording.shapes_seen import check_same_sizes
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import Link, Op, Profile, WorkloadSource
from profiles.schema.progress import Progress, silent
from runtime.beyond_capacity.limited_steps import LimitedSteps, SeenStep, all_there_is_bytes


class LimitedRecorder:
    """Records a training step whose steps run within a limit; the twin of `profiles.Recorder`."""

    def __init__(
        self,
        training: Training,
        limited: LimitedSteps,
        tools: Instruments,
        *,
        warmup_steps: int = 2,
        timed_steps: int = 3,
        progress: Progress | None = None,
        checkpointing: bool = True,
    ) -> None:
        """Prepares to record steps of a training that `limited` runs.

        Args:
            tools: What to measure with.
            warmup_steps: Steps before recording, at least; more until op times settle.
            timed_steps: Steps whose median gives each op's duration; at least one.
            progress: Called at every step.
            checkpointing: Whether activation checkpointing that the model has is kept.

        Raises:
            WorkloadError: Checkpointing cannot be switched off.
        """
        self._checkpointing = Checkpointing(kept=checkpointing)
        self._training = training
        self._limited = limited
        self._tools = tools
        self._trace = limited.new_trace()
        self._warm_up = WarmUpPass(tools.clock, warmup_steps)
        self._steps: list[SeenStep] = []
        self._timed_steps = timed_steps
        self._progress = progress or silent

    @property
    def is_done(self) -> bool:
        """Whether enough steps have been seen."""
        return len(self._steps) == self._timed_steps

    @contextmanager
    def step_of(self, held: Held) -> Iterator[None]:
        """Records the step that is run inside, of which `held` returns what else it can reach.

        Raises:
            CapacityError: An op does not fit even with everything else on the host.
            WorkloadError: It takes another course than those before, or never calls the optimizer.
        """
        warm_up = self._warm_up
        if warm_up.is_over:
            self._progress("recording op by op", len(self._steps), self._timed_steps)
        else:
            self._progress(warm_up.doing, warm_up.done, warm_up.wanted)
        with self._checkpointing, self._limited.traced(self._trace, held) as found:
            yield
        (seen,) = found
        if not warm_up.is_over:
            warm_up.add(sum(seen.durations_us))
            return
        for first in self._steps[:1]:
            check_same_course(first.anchors, seen.anchors, "anchor")
            check_same_sizes(first.shapes, seen.shapes)
            check_same_course([op.name for op in first.ops], [op.name for op in seen.ops], "op")
        self._steps.append(seen)

    def profile(self, *, link: Link, source: WorkloadSource = IN_A_LOOP) -> Profile:
        """Returns what one step does; see `profiles.Recorder.profile`."""
        if not self.is_done:
            raise WorkloadError("The recording is not done: run more steps inside it.")
        seen = self._steps[-1]
        recording = Recording(
            ops=_with_medians(self._steps),
            anchors=seen.anchors,
            shows=seen.shows,
            storages=seen.storages,
            warm_up=self._warm_up.result(),
            timed_steps=len(self._steps),
            without_checkpointing=not self._checkpointing.kept,
        )
        profile = profile_of(self._training, recording, source=source, link=link)
        meter = self._tools.memory
        if meter is None:
            return profile
        return with_op_overhead(
            profile,
            granule_bytes=meter.granule_bytes,
            unsplit_bytes=meter.unsplit_bytes,
            held_bytes=seen.held_bytes,
            workspaces_bytes=seen.workspaces_bytes,
        )


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
    checkpointing: bool = True,
) -> Profile:
    """Runs a training step a few times within a limit and returns what one step does.

    Args:
        workload: The step to record. Between steps it must fit on the device no more than within
            one; what has to wait on the host does. All of it is brought back at the end.
        source: How to build it again; stored in the profile, as the link is.
        limit_bytes: Device bytes the step may use; None for what the device has free.
        warmup_steps: Steps before recording, at least; more are run until op times settle.
        timed_steps: Steps whose median gives each op's duration; at least one.
        instruments: What to measure with; those of the device if None.
        checkpointing: Whether activation checkpointing that the model has is kept.

    Raises:
        CapacityError: An op does not fit even with everything else on the host.
        WorkloadError: The step takes another course each time, or never calls the optimizer.
    """
    workload = workload.held()
    tools = instruments or instruments_for(device_of(workload.model))
    limit_bytes = limit_bytes or all_there_is_bytes(workload)
    with LimitedSteps(workload, limit_bytes, tools) as limited:
        recorder = LimitedRecorder(
            workload,
            limited,
            tools,
            warmup_steps=warmup_steps,
            timed_steps=timed_steps,
            progress=progress,
            checkpointing=checkpointing,
        )
        while not recorder.is_done:
            with recorder.step_of(lambda: workload.step):
                workload.step()
        return recorder.profile(link=link, source=source)


def _with_medians(steps: list[SeenStep]) -> tuple[Op, ...]:
    """The ops of the last step, each with the median of its durations."""
    times_us = zip(*(step.durations_us for step in steps), strict=True)
    return tuple(
        op.model_copy(update={"duration_us": median(durations_us)})
        for op, durations_us in zip(steps[-1].ops, times_us, strict=True)
    )
