"""Times of a test's own, so that what is planned from a recording is the same on each machine.

[Note: no plan from measured times] A recording of a training step says how long its ops took on
the machine at hand. What is worth moving depends on that; so a test that plans from a recording and
asserts anything about the plan gives the recording these times first.
"""

from dataclasses import replace
from pathlib import Path

from profiles.hardware.links import nominal_link
from profiles.hardware.op_class import COMPUTE_CLASSES, class_of
from profiles.hooks.workload import Workload
from profiles.recording.device import device_of, instruments_for
from profiles.recording.record import record
from profiles.schema.profile import Link, Op, Profile, WorkloadSource
from profiles.schema.profile_file import read_profile, write_profile
from profiles.schema.profile_set import ProfileSet
from tests.support.training.beside import collect_circles
from tests.support.training.fake_time import CountingClock

LAUNCH_US = 1.0
COMPUTE_BYTES_PER_US = 1000.0
"""Of ops bound by arithmetic."""
MEMORY_BYTES_PER_US = 5000.0

UNNAMED = WorkloadSource(reference="", settings=(), seed=0)
"""Of workloads that no command builds again."""
FAST_LINK = nominal_link("test", 50_000.0, 50_000.0, latency_us=0.0)


def record_at_fixed_times(
    workload: Workload,
    *,
    source: WorkloadSource = UNNAMED,
    link: Link = FAST_LINK,
    warmup_steps: int = 2,
    checkpointing: bool = True,
) -> Profile:
    """Records a step by a clock on which it settles at once, and gives it fixed times.

    So which step is recorded depends on no time either: it is the one after the warm-up.
    """
    device = device_of(workload.model)
    collect_circles(device)
    profile = record(
        workload,
        source=source,
        link=link,
        warmup_steps=warmup_steps,
        timed_steps=1,
        instruments=replace(instruments_for(device), clock=CountingClock()),
        checkpointing=checkpointing,
    )
    del workload
    collect_circles(device)
    return with_fixed_times(profile)


def with_fixed_times(profile: Profile) -> Profile:
    """The same step; an op takes what its storages' bytes ask for, a slot what its ops take."""
    durations_us = op_durations_us(profile)
    slots_us = [0.0] * len(profile.slots)
    for op, duration_us in zip(profile.ops, durations_us, strict=True):
        slots_us[op.slot] += duration_us
    timed = profile.model_copy(
        update={
            "ops": tuple(
                op.model_copy(update={"duration_us": duration_us})
                for op, duration_us in zip(profile.ops, durations_us, strict=True)
            ),
            "slots": tuple(
                slot.model_copy(update={"duration_us": duration_us})
                for slot, duration_us in zip(profile.slots, slots_us, strict=True)
            ),
        }
    )
    return Profile.model_validate_json(timed.model_dump_json())


def give_fixed_times(path: Path) -> Profile:
    """Gives them to the profile in a file, which `plan profile` has just written."""
    profile = with_fixed_times(read_profile(path))
    write_profile(profile, path)
    return profile


def courses_with_fixed_times(profiles: ProfileSet) -> ProfileSet:
    """Gives them to the profile of every course."""
    courses = tuple(
        entry.model_copy(update={"profile": with_fixed_times(entry.profile)})
        for entry in profiles.courses
    )
    return profiles.model_copy(update={"courses": courses})


def op_durations_us(profile: Profile) -> list[float]:
    """What each op of a step takes: a launch, and its bytes at the rate of its class."""
    sizes_bytes = [0] * len(profile.ops)
    for storage in profile.storages:
        for op in {use.op for use in storage.uses}:
            sizes_bytes[op] += storage.size_bytes
    return [
        LAUNCH_US + size_bytes / _bytes_per_us(op)
        for op, size_bytes in zip(profile.ops, sizes_bytes, strict=True)
    ]


def _bytes_per_us(op: Op) -> float:
    bare = op.name.split(".")[1] if "." in op.name else op.name
    return COMPUTE_BYTES_PER_US if class_of(bare) in COMPUTE_CLASSES else MEMORY_BYTES_PER_US
