"""Records the step of a workload, which is run as often as that takes."""

import torch

from profiles.hooks.workload import Workload
from profiles.recording.device import Instruments, what_was_missing
from profiles.recording.recorder import Recorder
from profiles.schema.errors import CapacityError
from profiles.schema.profile import Link, Profile, WorkloadSource
from profiles.schema.progress import Progress


def record(
    workload: Workload,
    *,
    source: WorkloadSource,
    link: Link,
    warmup_steps: int = 2,
    timed_steps: int = 3,
    progress: Progress | None = None,
    instruments: Instruments | None = None,
    checkpointing: bool = True,
) -> Profile:
    """Runs a training step a few times and returns what one step does.

    The steps are real: they train the model, on the device that it is on.

    Args:
        source: How to build the step again; stored in the profile, as the link is.
        warmup_steps: Steps before recording, at least; more are run until their times settle.
        timed_steps: Steps whose median gives each slot's duration; at least one.
        progress: Called at every step.
        instruments: What to measure with; those of the device if None.
        checkpointing: Whether activation checkpointing that the model has is kept.

    Raises:
        WorkloadError: The step takes another course each time, or never calls the optimizer.
        CapacityError: The step does not fit on the device.
    """
    workload = workload.held()
    recorder = Recorder(
        workload.model,
        workload.optimizer,
        warmup_steps=warmup_steps,
        timed_steps=timed_steps,
        progress=progress,
        instruments=instruments,
        checkpointing=checkpointing,
    )
    try:
        while not recorder.is_done:
            with recorder.step_of(lambda: workload.step):
                workload.step()
        return recorder.profile(link=link, source=source)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The step does not fit on the device: {what_was_missing(error)}. "
            "Record it with --beyond-capacity."
        ) from error
    finally:
        recorder.close()
