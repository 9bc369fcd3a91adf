"""Makes the library's files: `python -m profiles.library.make`, which `make library` runs."""

import sys
from collections.abc import Iterable
from pathlib import Path

from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import target_of
from profiles.hardware.accelerators import accelerator_named
from profiles.hardware.links import link_named
from profiles.library.index import ENDING, INDEX, Entry, Index, WorkloadSize, folder
from profiles.library.recipes import A100, RECIPES, Recipe
from profiles.schema.files import CREATED_BY, write_file
from profiles.schema.profile import Profile, StorageKind, WorkloadSource
from profiles.schema.profile_file import write_profile
from profiles.workloads import WORKLOADS, build


def make(
    into: Path, recipes: Iterable[Recipe] = RECIPES, workloads: Iterable[str] = tuple(WORKLOADS)
) -> None:
    """Writes the profiles and the index.

    Args:
        into: The folder; profiles in it that no recipe names any more are deleted.
        recipes: The profiles to make.
        workloads: The built-in workloads whose sizes the index lists.
    """
    for old in into.glob(f"*{ENDING}"):
        old.unlink()
    entries = tuple(_made(recipe, into) for recipe in recipes)
    index = Index(
        format=Index.FORMAT,
        version=Index.VERSION,
        created_by=CREATED_BY,
        entries=entries,
        workloads=tuple(map(_size, workloads)),
    )
    write_file(index, into / INDEX)


def _made(recipe: Recipe, into: Path) -> Entry:
    print(recipe.command, file=sys.stderr)
    profile = estimated(recipe.source, recipe.device)
    write_profile(profile, into / f"{recipe.name}{ENDING}")
    return Entry(
        name=recipe.name,
        command=recipe.command,
        device=profile.device.name,
        device_bytes=profile.device.memory_bytes,
        peak_bytes=profile.peak_bytes,
        step_us=profile.step_us,
        times=profile.times,
        ops=len(profile.ops),
    )


def _size(workload: str) -> WorkloadSize:
    """Estimates a workload's size, which hardly depends on the device."""
    profile = estimated(WorkloadSource(reference=workload, settings=(), seed=0), A100)
    return WorkloadSize(
        workload=workload,
        parameters=_parameters(workload),
        parameter_bytes=_bytes(profile, StorageKind.PARAMETER),
        activation_bytes=_bytes(profile, StorageKind.ACTIVATION),
    )


def estimated(source: WorkloadSource, device: str) -> Profile:
    """Returns the profile of a step on a device of the table, with its usual link."""
    accelerator = accelerator_named(device)
    return estimate(
        lambda: build(source),
        target=target_of(accelerator),
        source=source,
        link=link_named(accelerator.link),
    )


def _parameters(workload: str) -> int:
    model = build(WorkloadSource(reference=workload, settings=(), seed=0)).model
    return sum(parameter.numel() for parameter in model.parameters())


def _bytes(profile: Profile, kind: StorageKind) -> int:
    return sum(storage.size_bytes for storage in profile.storages if storage.kind is kind)


if __name__ == "__main__":
    make(folder())
