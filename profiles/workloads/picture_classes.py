"""Training a transformers model to classify slices of the brain."""

import torch

from profiles.workload import Workload
from profiles.workloads.slices import brain_slices
from profiles.workloads.training_step import training

CLASSES = 1000
"""As in ImageNet, so that the model has the size it is known for."""


def classifier_training(
    model: torch.nn.Module, *, resolution: int, batch: int, optimizer: str, learning_rate: float
) -> Workload:
    """Returns the training of a model that takes pictures and returns logits.

    Args:
        model: A transformers model for image classification.
        resolution: Edge of a picture in pixels.
        batch: Pictures in a step.
        optimizer: A word of the `optimizer` setting.
        learning_rate: The optimizer's.
    """
    pictures, classes = brain_slices(batch, resolution)

    def loss() -> torch.Tensor:
        logits = model(pixel_values=pictures).logits
        return torch.nn.functional.cross_entropy(logits, classes)

    return training(model, loss, optimizer=optimizer, learning_rate=learning_rate)
