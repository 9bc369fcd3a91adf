"""The built-in workloads, by name. Needs no torch: a workload's module is loaded to build it."""

from collections.abc import Mapping
from types import MappingProxyType

from profiles.workloads.builtin import (
    ACCUMULATE,
    ADAM,
    ADAMW,
    BF16,
    CHECKPOINTING,
    DROPOUT,
    FP32,
    MOMENTUM,
    PRECISION,
    Builtin,
    batch,
    learning_rate,
    optimizer,
    resolution,
    sequence,
    size,
)
from profiles.workloads.setting import Setting, one_of, up_to, whole_number

WHOLE_IMAGE = "full"
LEVELS_DIVISOR = 16
"""The U-Net halves the image four times."""
EDGES = up_to(768, smallest=2 * LEVELS_DIVISOR, multiple_of=LEVELS_DIVISOR)
"""Instance normalisation needs more than one voxel at the coarsest level. The image is 189 to 233
voxels wide: what is beyond it is background.
"""
FEATURES = up_to(128, smallest=4)
BASIC_UNET, DYN_UNET = "basicunet", "dynunet"
PATCH_EDGE = 16


def _crop_size(text: str) -> int | None:
    if text == WHOLE_IMAGE:
        return None
    return whole_number(EDGES)(text)


UNET3D = Builtin(
    name="unet3d",
    summary="3D U-Net (MONAI) finding grey and white matter in the MNI152 brain",
    settings=(
        Setting(
            name="size",
            default="64",
            allowed=f"a multiple of {EDGES.step} from {EDGES[0]} to {EDGES[-1]} (edge of the "
            f"centred crop, in voxels of 1 mm), or {WHOLE_IMAGE!r}",
            read=_crop_size,
            numbers=EDGES,
        ),
        Setting(
            name="features",
            default="32",
            allowed="a whole number from 4 to 128 (channels of the first level)",
            read=whole_number(FEATURES),
            numbers=FEATURES,
        ),
        Setting(
            name="network",
            default=BASIC_UNET,
            allowed=f"one of {BASIC_UNET}, {DYN_UNET} (nnU-Net's)",
            read=one_of(BASIC_UNET, DYN_UNET),
        ),
        batch("1", 64),
        optimizer(ADAM),
        learning_rate("0.001"),
        PRECISION,
        ACCUMULATE,
    ),
    module="profiles.workloads.unet3d",
)

RESNET50 = Builtin(
    name="resnet50",
    summary="ResNet-50 (transformers) telling how high in the head a slice of the brain lies",
    settings=(
        resolution("224", 32, 32_768, 32),
        batch("8", 16_384),
        optimizer(MOMENTUM),
        learning_rate("0.01"),
        PRECISION,
        ACCUMULATE,
    ),
    module="profiles.workloads.resnet50",
)

VIT = Builtin(
    name="vit",
    summary="Vision transformer (transformers), patches of 16 pixels, on slices of the brain",
    settings=(
        size("base", "tiny", "base", "large", "huge"),
        resolution("224", 32, 2048, PATCH_EDGE),
        batch("8", 4096),
        optimizer(ADAMW),
        learning_rate("0.0001"),
        PRECISION,
        ACCUMULATE,
        CHECKPOINTING,
    ),
    module="profiles.workloads.vit",
)

GPT2 = Builtin(
    name="gpt2",
    summary="GPT-2 (transformers) writing Python, learnt from the standard library's bytes",
    settings=(
        size("small", "tiny", "small", "medium", "large", "xl"),
        sequence("256", 1024),
        batch("2", 1024),
        DROPOUT,
        optimizer(ADAMW),
        learning_rate("0.0003"),
        PRECISION,
        ACCUMULATE,
        CHECKPOINTING,
    ),
    module="profiles.workloads.gpt2",
)

BERT = Builtin(
    name="bert",
    summary="BERT (transformers) restoring masked bytes of the standard library's sources",
    settings=(
        size("base", "tiny", "base", "large"),
        sequence("128", 512),
        batch("4", 4096),
        DROPOUT,
        optimizer(ADAMW),
        learning_rate("0.0001"),
        PRECISION,
        ACCUMULATE,
        CHECKPOINTING,
    ),
    module="profiles.workloads.bert",
)

LLAMA = Builtin(
    name="llama",
    summary="Llama (transformers) writing Python, learnt from the standard library's bytes",
    settings=(
        size("tiny", "tiny", "1b", "3b", "7b", "8b", "13b"),
        sequence("256", 131_072),
        batch("1", 1024),
        Setting(
            name="dtype",
            default=BF16,
            allowed=f"one of {BF16}, {FP32} (of parameters, gradients and activations)",
            read=one_of(BF16, FP32),
        ),
        optimizer(ADAMW),
        learning_rate("0.0003"),
        PRECISION,
        ACCUMULATE,
        CHECKPOINTING,
    ),
    module="profiles.workloads.llama",
)

WORKLOADS: Mapping[str, Builtin] = MappingProxyType(
    {workload.name: workload for workload in (UNET3D, RESNET50, VIT, GPT2, BERT, LLAMA)}
)
