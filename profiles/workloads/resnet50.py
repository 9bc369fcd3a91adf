"""ResNet-50, He et al. 2015, arXiv:1512.03385."""

from typing import Unpack

from transformers import ResNetConfig, ResNetForImageClassification

from profiles.hooks.workload import Workload
from profiles.workloads.picture_classes import CLASSES, classifier_training
from profiles.workloads.training_step import HowToTrain


def build(*, resolution: int, batch: int, **how: Unpack[HowToTrain]) -> Workload:
    """Returns the training of ResNet-50 on slices of the brain; see `classifier_training`."""
    config = ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", num_labels=CLASSES)
    return classifier_training(
        ResNetForImageClassification(config),
        resolution=resolution,
        batch=batch,
        **how,
    )
