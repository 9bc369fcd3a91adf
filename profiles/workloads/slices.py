"""Pictures to classify: slices of the MNI152 brain, and how high in the head each one lies."""

import numpy as np
import torch

from profiles.workloads.brain import t1_image

LOWEST, HIGHEST = 20, 170
"""Slices further out show little of the head; the image has 189."""
HEIGHTS = 10


def brain_slices(count: int, edge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns pictures and their classes.

    Args:
        count: How many; from the bottom to the top, evenly spread, each again if there are more
            than slices.
        edge: Edge of a picture in pixels.

    Returns:
        Pictures, float32 [count, 3, edge, edge], whose colours are three neighbouring slices; and
        classes, int64 [count], of ten heights.
    """
    distinct = min(count, HIGHEST - LOWEST)
    heights = np.linspace(LOWEST, HIGHEST - 1, distinct).astype(np.int64)
    image = t1_image()
    image = (image - image.mean()) / image.std()
    colours = np.stack([image[:, :, heights + offset] for offset in (-1, 0, 1)])
    classes = (heights - LOWEST) * HEIGHTS // (HIGHEST - LOWEST)
    slices = torch.tensor(colours.transpose(3, 0, 1, 2).copy())
    # Drawn larger by torch, not NumPy: large pictures then cost no memory where tensors are fake.
    pictures = torch.nn.functional.interpolate(slices, size=(edge, edge), mode="bilinear")
    turn = torch.arange(count) % distinct
    return pictures[turn], torch.tensor(classes)[turn]
