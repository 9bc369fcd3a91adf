"""Training a transformers model to classify slices of the brain."""

from typing import Unpack

import torch

from profiles.hooks.workload import Workload
from profiles.workloads.slices import brain_slices
from profiles.workloads.training_step import HowToTrain, training

CLASSES = 1000
"""As in ImageNet, so that the model has the size it is known for."""


def classifier_training(
    model: torch.nn.Module, *, resolution: int, batch: int, **how: Unpack[HowToTrain]
) -> Workload:
    """Returns the training of a model that takes pictures and returns logits.

    Args:
        model: A transformers model for image classification.
        resolution: Edge of a picture in pixels.
        batch: Pictures in a step.
        how: See `HowToTrain`.
    """
    pictures, classes = brain_slices(batch, resolution)

    def loss() -> torch.Tensor:
        logits = model(pixel_values=pictures).logits
        return torch.nn.functional.cross_entropy(logits, classes)

    return training(model, loss, **how)
