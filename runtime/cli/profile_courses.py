"""`plan profile --courses`: records the courses of a training whose batches vary."""

from typing import TYPE_CHECKING

from planner.cli.output import print_line
from profiles.schema.errors import CapacityError, QuantityError
from profiles.schema.profile import Link, WorkloadSource
from profiles.schema.profile_set import ProfileSet
from profiles.schema.progress import Progress

if TYPE_CHECKING:
    from profiles.hooks.workload import Workload


def check_courses(courses: int, *, is_estimated: bool, **others: bool) -> None:
    """Checks that several courses are asked for only of steps that are run as they are.

    Raises:
        QuantityError: Something else is asked for, too.
    """
    if courses == 1:
        return
    asked = [name for name, given in others.items() if given]
    if is_estimated or asked:
        what = f"--{asked[0].replace('_', '-')}" if asked else "an estimate"
        raise QuantityError(
            f"--courses {courses} does not go with {what}: steps of several courses are told "
            "apart while they run. Record them where they fit, or one course at a time."
        )


def record_courses(
    workload: "Workload",
    source: WorkloadSource,
    link: Link,
    most_courses: int,
    steps: tuple[int, int],
    progress: Progress,
    *,
    checkpointing: bool,
) -> ProfileSet:
    """Runs a workload's step until its courses are recorded, and says which could not be.

    Args:
        workload: What is trained; each of its steps takes one course or another.
        source: How to build it again.
        link: The link to plan for.
        most_courses: How many courses are wanted.
        steps: Warm-up steps of each, at least, and steps that are timed.
        progress: Called at every step.
        checkpointing: Whether activation checkpointing that the model has is kept.

    Raises:
        WorkloadError: No course was recorded.
        CapacityError: A step does not fit on the device.
    """
    import torch

    from profiles.recording.course_recorder import CourseRecorder
    from profiles.recording.device import what_was_missing

    held = workload.held()
    warmup_steps, timed_steps = steps
    recorder = CourseRecorder(
        held.model,
        held.optimizer,
        most_courses=most_courses,
        warmup_steps=warmup_steps,
        timed_steps=timed_steps,
        progress=progress,
        checkpointing=checkpointing,
    )
    try:
        while not recorder.is_done:
            with recorder.step_of(lambda: held.step):
                held.step()
        recorded = recorder.profiles(link=link, source=source)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The step does not fit on the device: {what_was_missing(error)}. Record a smaller "
            "one, or the courses one at a time with --beyond-capacity."
        ) from error
    finally:
        recorder.close()
    for line in recorder.left_out():
        print_line(f"plan: {line}", error=True)
    return recorded
