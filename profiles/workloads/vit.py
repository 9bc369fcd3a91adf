"""Vision transformer, Dosovitskiy et al. 2020, arXiv:2010.11929, table 1."""

from typing import NamedTuple, Unpack

from transformers import ViTConfig, ViTForImageClassification

from profiles.hooks.workload import Workload
from profiles.workloads.catalog import PATCH_EDGE
from profiles.workloads.picture_classes import CLASSES, classifier_training
from profiles.workloads.training_step import HowToTrain, checkpointed


class _Shape(NamedTuple):
    layers: int
    width: int
    heads: int


SHAPES = {
    "tiny": _Shape(2, 64, 2),
    "base": _Shape(12, 768, 12),
    "large": _Shape(24, 1024, 16),
    "huge": _Shape(32, 1280, 16),
}
INNER_PER_WIDTH = 4


def build(
    *, size: str, resolution: int, batch: int, checkpointing: str, **how: Unpack[HowToTrain]
) -> Workload:
    """Returns the training of a ViT on slices of the brain; see `classifier_training`."""
    shape = SHAPES[size]
    config = ViTConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        intermediate_size=INNER_PER_WIDTH * shape.width,
        image_size=resolution,
        patch_size=PATCH_EDGE,
        num_labels=CLASSES,
    )
    return classifier_training(
        checkpointed(ViTForImageClassification(config), checkpointing),
        resolution=resolution,
        batch=batch,
        **how,
    )
