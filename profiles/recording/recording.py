"""What is known of a recorded step, and the profile made of it."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from profiles.hardware.links import known_sharing
from profiles.hooks.named_storages import describe_model
from profiles.hooks.workload import Training
from profiles.recording.device import describe_device, device_of
from profiles.schema.checks import verified
from profiles.schema.errors import WorkloadError
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


class WarmUp(NamedTuple):
    """The steps that a warm-up took, and whether their times had settled by then."""

    steps: int
    settled: bool


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is known of a step once all passes are over.

    Attributes:
        anchors: Keys of the anchors, in order.
        shows: The storage each of them shows.
        durations_us: Duration of the slot that each of them opens; None if a slot takes what its
            ops take together.
        timed_steps: Steps behind each duration.
        without_checkpointing: Whether the model's own checkpointing was switched off.
    """

    ops: tuple[Op, ...]
    anchors: tuple[str, ...]
    shows: tuple[int | None, ...]
    durations_us: tuple[float, ...] | None = None
    storages: tuple[Storage, ...]
    warm_up: WarmUp
    timed_steps: int
    without_checkpointing: bool = False

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
    training: Training,
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
    model = describe_model(training.model, training.optimizer)
    summed = recording.durations_us is None
    versions = Versions(swapplan=VERSION, torch=torch.__version__, python=platform.python_version())
    profile = Profile(
        format=Profile.FORMAT,
        version=Profile.VERSION,
        created_by=CREATED_BY,
        workload=source,
        model_fingerprint=model.fingerprint(),
        device=device or describe_device(device_of(training.model)),
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
        without_checkpointing=recording.without_checkpointing,
    )
    return verified(profile)


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
