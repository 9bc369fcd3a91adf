"""The built-in workloads, by name. Needs no torch: a workload's module is loaded to build it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from profiles.workloads.settings import (
    ADAM,
    ADAMW,
    BF16,
    CHECKPOINTING,
    DROPOUT,
    FP32,
    MOMENTUM,
    Setting,
    batch,
    how_to_train,
    resolution,
    sequence,
    whole_number,
    word,
)

WHOLE_IMAGE = "full"
LEVELS_DIVISOR = 16
"""The U-Net halves the image four times."""
BASIC_UNET, DYN_UNET = "basicunet", "dynunet"
PATCH_EDGE = 16


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A workload that comes with the project.

    Attributes:
        name: What the user types.
        summary: One line for `plan workloads`.
        module: The module whose function of this name takes the settings' values and returns the
            `Workload`.
        settings: Its `--set` keys.
        extra: The pip extra with the packages it needs.
    """

    name: str
    summary: str
    module: str
    settings: tuple[Setting, ...]
    extra: str = "models"


def _crop_size() -> Setting:
    """Instance normalisation needs more than one voxel at the coarsest level.

    The image is 189 to 233 voxels wide: what is beyond it is background.
    """
    edge = whole_number(
        "size",
        "64",
        smallest=2 * LEVELS_DIVISOR,
        largest=768,
        multiple_of=LEVELS_DIVISOR,
        what="edge of the centred crop, in voxels of 1 mm",
    )
    return replace(
        edge,
        allowed=f"{edge.allowed}, or {WHOLE_IMAGE!r}",
        read=lambda text: None if text == WHOLE_IMAGE else edge.read(text),
    )


_TABLE = (
    Builtin(
        name="unet3d",
        summary="3D U-Net (MONAI) finding grey and white matter in the MNI152 brain",
        module="profiles.workloads.unet3d",
        settings=(
            _crop_size(),
            whole_number(
                "features", "32", smallest=4, largest=128, what="channels of the first level"
            ),
            word("network", BASIC_UNET, (BASIC_UNET, DYN_UNET), "(nnU-Net's)"),
            batch("1", 64),
            *how_to_train(ADAM, "0.001"),
        ),
    ),
    Builtin(
        name="resnet50",
        summary="ResNet-50 (transformers) telling how high in the head a slice of the brain lies",
        module="profiles.workloads.pictures",
        settings=(resolution(32_768, 32), batch("8", 16_384), *how_to_train(MOMENTUM, "0.01")),
    ),
    Builtin(
        name="vit",
        summary="Vision transformer (transformers), patches of 16 pixels, on slices of the brain",
        module="profiles.workloads.pictures",
        settings=(
            word("size", "base", ("tiny", "base", "large", "huge")),
            resolution(2048, PATCH_EDGE),
            batch("8", 4096),
            *how_to_train(ADAMW, "0.0001"),
            CHECKPOINTING,
        ),
    ),
    Builtin(
        name="gpt2",
        summary="GPT-2 (transformers) writing Python, learnt from the standard library's bytes",
        module="profiles.workloads.language",
        settings=(
            word("size", "small", ("tiny", "small", "medium", "large", "xl")),
            sequence("256", 1024),
            batch("2", 1024),
            DROPOUT,
            *how_to_train(ADAMW, "0.0003"),
            CHECKPOINTING,
        ),
    ),
    Builtin(
        name="bert",
        summary="BERT (transformers) restoring masked bytes of the standard library's sources",
        module="profiles.workloads.language",
        settings=(
            word("size", "base", ("tiny", "base", "large")),
            sequence("128", 512),
            batch("4", 4096),
            DROPOUT,
            *how_to_train(ADAMW, "0.0001"),
            CHECKPOINTING,
        ),
    ),
    Builtin(
        name="llama",
        summary="Llama (transformers) writing Python, learnt from the standard library's bytes",
        module="profiles.workloads.language",
        settings=(
            word("size", "tiny", ("tiny", "1b", "3b", "7b", "8b", "13b")),
            sequence("256", 131_072),
            batch("1", 1024),
            word("dtype", BF16, (BF16, FP32), "(of parameters, gradients and activations)"),
            *how_to_train(ADAMW, "0.0003"),
            CHECKPOINTING,
        ),
    ),
)

WORKLOADS: Mapping[str, Builtin] = MappingProxyType({entry.name: entry for entry in _TABLE})
