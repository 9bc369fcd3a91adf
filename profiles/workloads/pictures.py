"""Image models (transformers) saying how high in the head a slice of the MNI152 brain lies.

The brain is that of `profiles.workloads.unet3d`.
"""

from typing import NamedTuple, Unpack

import numpy as np
import torch
from nilearn.datasets import load_mni152_template
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from profiles.hooks.workload import Workload
from profiles.workloads.catalog import PATCH_EDGE
from profiles.workloads.training_step import HowToTrain, checkpointed, training

CLASSES = 1000
"""As in ImageNet, so that the model has the size it is known for."""
LOWEST, HIGHEST = 20, 170
"""Slices further out show little of the head; the image has 189."""
HEIGHTS = 10


class _Shape(NamedTuple):
    layers: int
    width: int
    heads: int


VIT_SHAPES = {
    "tiny": _Shape(2, 64, 2),
    "base": _Shape(12, 768, 12),
    "large": _Shape(24, 1024, 16),
    "huge": _Shape(32, 1280, 16),
}
"""Dosovitskiy et al. 2020, arXiv:2010.11929, table 1."""
VIT_INNER_PER_WIDTH = 4


def resnet50(*, resolution: int, **how: Unpack[HowToTrain]) -> Workload:
    """Returns the training of ResNet-50, He et al. 2015, arXiv:1512.03385."""
    config = ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", num_labels=CLASSES)
    return _classifier_training(ResNetForImageClassification(config), resolution, how)


def vit(*, size: str, resolution: int, checkpointing: str, **how: Unpack[HowToTrain]) -> Workload:
    """Returns the training of a vision transformer."""
    shape = VIT_SHAPES[size]
    config = ViTConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        intermediate_size=VIT_INNER_PER_WIDTH * shape.width,
        image_size=resolution,
        patch_size=PATCH_EDGE,
        num_labels=CLASSES,
    )
    model = checkpointed(ViTForImageClassification(config), checkpointing)
    return _classifier_training(model, resolution, how)


def _classifier_training(model: torch.nn.Module, resolution: int, how: HowToTrain) -> Workload:
    pictures, classes = brain_slices(how["batch"], resolution)

    def loss() -> torch.Tensor:
        logits = model(pixel_values=pictures).logits
        return torch.nn.functional.cross_entropy(logits, classes)

    return training(model, loss, how)


def brain_slices(count: int, edge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns pictures, evenly spread from the bottom to the top, and their classes.

    Pictures, float32 [count, 3, edge, edge], have three neighbouring slices as colours, and come
    again if there are more than slices; classes, int64 [count], are of ten heights.
    """
    distinct = min(count, HIGHEST - LOWEST)
    heights = np.linspace(LOWEST, HIGHEST - 1, distinct).astype(np.int64)
    image = load_mni152_template(resolution=1).get_fdata(dtype=np.float32)  # Of 1 mm.
    image = (image - image.mean()) / image.std()
    colours = np.stack([image[:, :, heights + offset] for offset in (-1, 0, 1)])
    classes = (heights - LOWEST) * HEIGHTS // (HIGHEST - LOWEST)
    slices = torch.tensor(colours.transpose(3, 0, 1, 2).copy())
    # Drawn larger by torch, not NumPy: large pictures then cost no memory where tensors are fake.
    pictures = torch.nn.functional.interpolate(slices, size=(edge, edge), mode="bilinear")
    turn = torch.arange(count) % distinct
    return pictures[turn], torch.tensor(classes)[turn]
