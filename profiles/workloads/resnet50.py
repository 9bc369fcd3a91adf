"""ResNet-50, He et al. 2015, arXiv:1512.03385."""

from transformers import ResNetConfig, ResNetForImageClassification

from profiles.workload import Workload
from profiles.workloads.picture_classes import CLASSES, classifier_training


def build(*, resolution: int, batch: int, optimizer: str, learning_rate: float) -> Workload:
    """Returns the training of ResNet-50 on slices of the brain; see `classifier_training`."""
    config = ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", num_labels=CLASSES)
    return classifier_training(
        ResNetForImageClassification(config),
        resolution=resolution,
        batch=batch,
        optimizer=optimizer,
        learning_rate=learning_rate,
    )
