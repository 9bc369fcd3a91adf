"""What recording found out about a step, and how it becomes a profile."""

import platform
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from profiles.hardware.links import known_sharing
from profiles.hooks.anchors import OPTIMIZER_PRE, AnchorHooks, AnchorListener
from profiles.hooks.named_storages import describe_model
from profiles.hooks.workload import Workload, refusal_told
from profiles.recording.device import describe_device
from profiles.recording.warm_up import WarmUp
from profiles.schema.checks import verified
from profiles.schema.errors import WorkloadError
from profiles.schema.files import CREATED_BY, VERSION
from profiles.schema.profile import (
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


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is known of a step once all passes are over.

    Attributes:
        ops: In order.
        anchors: Keys of the anchors, in order.
        shows: The storage each of them shows.
        durations_us: Duration of the slot that each of them opens.
        storages: In order of first sight.
        slot_times: What the durations were taken from.
        warm_up: The steps before.
        timed_steps: Steps behind each duration.
    """

    ops: tuple[Op, ...]
    anchors: tuple[str, ...]
    shows: tuple[int | None, ...]
    durations_us: tuple[float, ...]
    storages: tuple[Storage, ...]
    slot_times: SlotTimes
    warm_up: WarmUp
    timed_steps: int


def device_of(model: torch.nn.Module) -> torch.device:
    """Returns the device that a model's parameters are on.

    Raises:
        WorkloadError: The model has no parameters, or some on another device than others.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if not devices:
        raise WorkloadError("The model has no parameters; there is nothing to train.")
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise WorkloadError(
            f"The model is on {found}, expected one device. Move it to one of them."
        )
    return devices.pop()


def profile_of(
    workload: Workload, recording: Recording, *, source: WorkloadSource, link: Link
) -> Profile:
    """Returns the profile of a recorded step, without any overhead beyond its storages."""
    model = describe_model(workload.model, workload.optimizer)
    profile = Profile(
        format=Profile.FORMAT,
        version=Profile.VERSION,
        created_by=CREATED_BY,
        workload=source,
        model_fingerprint=model.fingerprint(),
        device=describe_device(device_of(workload.model)),
        link=link,
        sharing=known_sharing(link),
        versions=Versions(
            swapplan=VERSION, torch=torch.__version__, python=platform.python_version()
        ),
        times=Provenance.MEASURED,
        slot_times=recording.slot_times,
        warmup_steps=recording.warm_up.steps,
        settled=recording.warm_up.settled,
        timed_steps=recording.timed_steps,
        ops=recording.ops,
        slots=tuple(
            Slot(anchor=key, shows=shows, duration_us=duration_us, overhead_bytes=0)
            for key, shows, duration_us in zip(
                recording.anchors, recording.shows, recording.durations_us, strict=True
            )
        ),
        storages=recording.storages,
        model=model,
    )
    return verified(profile)


def watch_anchors(workload: Workload, listener: AnchorListener, watched: ExitStack) -> None:
    """Has a listener told of the anchors of the step run until the stack is left."""
    watched.enter_context(refusal_told())
    hooks = AnchorHooks(workload.model, workload.optimizer, listener)
    watched.callback(hooks.close)
    watched.enter_context(hooks.step())


def check_trains(anchors: list[str]) -> None:
    """Checks that a step is a training step of its optimizer.

    Raises:
        WorkloadError: It never calls the optimizer.
    """
    if OPTIMIZER_PRE not in anchors:
        raise WorkloadError(
            "The step never calls optimizer.step(): it is no training step of this optimizer. "
            "Return the optimizer that the step uses."
        )


def check_same_course(expected: list[str], found: list[str], what: str) -> None:
    """Compares two runs of a step.

    Args:
        expected: Anchors or ops of the first run.
        found: Those of another.
        what: What they are: `anchor` or `op`.

    Raises:
        WorkloadError: They differ.
    """
    if expected == found:
        return
    pairs = zip([*expected, "nothing"], [*found, "nothing"], strict=False)
    number, (a, b) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    raise WorkloadError(
        f"The step takes another course each time: {what} {number} was {a!r}, then {b!r}. A plan "
        "needs a step that repeats; make shapes and control flow the same in every step."
    )
