"""Makes the library's files: `python -m profiles.library.make`, which `make library` runs."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import target_of
from profiles.hardware.accelerators import accelerator_named
from profiles.hardware.links import link_named
from profiles.library.index import ENDING, INDEX, Entry, Index, WorkloadSize, folder
from profiles.schema.files import CREATED_BY, write_file
from profiles.schema.profile import Profile, StorageKind, WorkloadSource
from profiles.schema.profile_file import write_profile
from profiles.workloads.build import build
from profiles.workloads.catalog import WORKLOADS


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One profile of the library.

    Attributes:
        name: What follows `library:`.
    """

    name: str
    source: WorkloadSource
    device: str

    @property
    def command(self) -> str:
        """What makes the file again, without its `-o`."""
        settings = "".join(f" --set {key}={value}" for key, value in self.source.settings)
        return f"plan profile {self.source.reference} --device {self.device}{settings}"


V100_16, V100_32, A100, H200 = "v100-16gb", "v100-32gb", "a100-80gb", "h200"
RTX4090 = "rtx4090"


def _recipe(step: str, device: str, reference: str, **settings: str) -> Recipe:
    source = WorkloadSource(reference=reference, settings=tuple(settings.items()), seed=0)
    return Recipe(name=f"{step}-{device}", source=source, device=device)


# Each step is as large as makes its device too small, by a few percent or by a factor of two: the
# sizes are the paper's, the batch is what was left to choose. SGD stands where the states of Adam
# alone would not leave room for an optimizer step. The last ones are language models that people
# would train on the card they own. There is no 13b on an RTX 4090: its gradients, 24 GiB, are there
# as the step ends, and no plan moves them then.
RECIPES: tuple[Recipe, ...] = (
    _recipe("unet3d-144", V100_16, "unet3d", size="144", batch="4"),
    _recipe("unet3d-144", V100_32, "unet3d", size="144", batch="8"),
    _recipe("unet3d-144", A100, "unet3d", size="144", batch="16"),
    _recipe("unet3d-144", H200, "unet3d", size="144", batch="32"),
    _recipe("unet3d-192", V100_16, "unet3d", size="192", batch="2"),
    _recipe("unet3d-192", V100_32, "unet3d", size="192", batch="3"),
    _recipe("unet3d-192", A100, "unet3d", size="192", batch="8"),
    _recipe("unet3d-192", H200, "unet3d", size="192", batch="14"),
    _recipe("resnet50", V100_16, "resnet50", batch="256"),
    _recipe("resnet50", V100_32, "resnet50", batch="512"),
    _recipe("resnet50", A100, "resnet50", batch="1280"),
    _recipe("resnet50", H200, "resnet50", batch="2304"),
    _recipe("gpt2-xl", V100_16, "gpt2", size="xl", sequence="1024", batch="2", optimizer="sgd"),
    _recipe("gpt2-xl", V100_32, "gpt2", size="xl", sequence="1024", batch="2"),
    _recipe("gpt2-xl", A100, "gpt2", size="xl", sequence="1024", batch="10"),
    _recipe("gpt2-xl", H200, "gpt2", size="xl", sequence="1024", batch="18"),
    _recipe("llama-7b", V100_16, "llama", size="7b", sequence="2048", optimizer="sgd"),
    _recipe("llama-7b", V100_32, "llama", size="7b", sequence="4096", optimizer="sgd"),
    _recipe("llama-7b", A100, "llama", size="7b", sequence="4096", batch="2"),
    _recipe("llama-7b", H200, "llama", size="7b", sequence="4096", batch="5"),
    _recipe("llama-1b", RTX4090, "llama", size="1b", sequence="2048", batch="4"),
    _recipe("llama-3b", RTX4090, "llama", size="3b", sequence="2048", batch="2"),
    _recipe("llama-8b", RTX4090, "llama", size="8b", sequence="2048"),
    _recipe("llama-8b", A100, "llama", size="8b", sequence="4096", batch="2"),
    _recipe("llama-13b", A100, "llama", size="13b", sequence="4096"),
)


def make(
    into: Path, recipes: Iterable[Recipe] = RECIPES, workloads: Iterable[str] = tuple(WORKLOADS)
) -> None:
    """Writes the profiles, and the index, which lists the sizes of workloads, too.

    Profiles in the folder that no recipe names any more are deleted.
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
