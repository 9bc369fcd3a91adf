"""The questions of Large Model Support, asked of plans: each is one `plan limits` command.

The paper (arXiv:1811.12174) and its family trained 3D U-Net and ResNet-50 beyond the memory of a
V100, over NVLink in an AC922 and over PCIe elsewhere. What the family published stands in
`published.csv`, each figure with the place it was read. What these commands print stands in
`limits.csv`: plans that copy alone, as that family did. `recompute.csv` has the largest step again,
with plans that may also drop storages and make them again. `python -m paper.make` makes both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Question(StrEnum):
    """What grows."""

    VOLUME = "largest volume, 3D U-Net"
    RESOLUTION = "largest resolution, ResNet-50"
    BATCH = "largest batch, ResNet-50"
    WORKERS = "several workers, 3D U-Net"

    @property
    def axes(self) -> int:
        """Along how many axes the setting grows: voxels, pixels or samples are its power."""
        return {Question.VOLUME: 3, Question.WORKERS: 3, Question.RESOLUTION: 2}.get(self, 1)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One command.

    Attributes:
        name: What published figures refer to.
        question: What it answers.
        command: What prints it, without the `-o` of its table.
    """

    name: str
    question: Question
    command: str


VOLUME = "plan limits unet3d --grow size"
RESOLUTION = "plan limits resnet50 --grow resolution --set batch=1 --multiple-of 64"
BATCH = "plan limits resnet50 --grow batch --multiple-of 8"
COPIES_ALONE = "--without recompute"
PAPERS_LINKS = "--links pcie3-x16,nvlink2-ac922-4gpu"
X86_SHARE = "switch=2,socket=4,memory=76.8GB/s"
"""Two GPUs behind each PCIe switch, four to a socket; the rate is that of the x86 machine in IBM's
slides (GTC 2019, S9426)."""
PAPERS_DEVICES = {"v100-16gb": PAPERS_LINKS, "v100-32gb": PAPERS_LINKS}
LATER_DEVICES = {"a100-80gb": "", "h200": "", "gh200-96gb": ""}
"""Over the link each usually has."""


def _on_each(
    devices: Mapping[str, str], question: Question, command: str, more: str
) -> Iterator[Experiment]:
    for device, links in devices.items():
        words = (command, f"--device {device}", links, more, COPIES_ALONE)
        name = f"{question.name.lower()}-{device}"
        yield Experiment(name=name, question=question, command=" ".join(filter(None, words)))


ALL_DEVICES = {**PAPERS_DEVICES, **LATER_DEVICES}

EXPERIMENTS: tuple[Experiment, ...] = (
    *_on_each(ALL_DEVICES, Question.VOLUME, VOLUME, "--points 3 --time-limit 30"),
    *_on_each(ALL_DEVICES, Question.RESOLUTION, RESOLUTION, "--time-limit 20"),
    *_on_each(ALL_DEVICES, Question.BATCH, BATCH, "--time-limit 20"),
    Experiment(
        name="workers-pcie3",
        question=Question.WORKERS,
        command=f"{VOLUME} --device v100-16gb --links pcie3-x16 --workers 1,2,4 "
        f"--share {X86_SHARE} --all-reduce-on-link --time-limit 20 {COPIES_ALONE}",
    ),
    Experiment(
        name="workers-nvlink2",
        question=Question.WORKERS,
        command=f"{VOLUME} --device v100-16gb --links nvlink2-ac922-4gpu --workers 1,2,4 "
        f"--time-limit 20 {COPIES_ALONE}",
    ),
)
