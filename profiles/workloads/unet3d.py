"""The main job: a 3D U-Net that finds grey and white matter in a brain image.

The brain is real, with no download: the MNI152 template that nilearn ships, at 1 mm. Fonov et al.
2011, Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54(1),
doi:10.1016/j.neuroimage.2010.07.033.
"""

from typing import Unpack

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, DynUNet
from nilearn.datasets import (
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)

from profiles.hooks.workload import Workload
from profiles.workloads.catalog import BASIC_UNET, LEVELS_DIVISOR
from profiles.workloads.training_step import HowToTrain, training

BACKGROUND, GREY, WHITE = range(3)
TISSUES = 3
AXES = 3
RESOLUTION_MM = 1
LIKELY = 0.5
"""A voxel belongs to a tissue whose probability map says more than this."""


def unet3d(*, size: int | None, features: int, network: str, **how: Unpack[HowToTrain]) -> Workload:
    """Returns the training of a U-Net on the MNI152 template.

    `size` is the edge of the centred crop in voxels, None for the whole image; `features` are the
    channels of the first level.
    """
    voxels, tissues = brain(size, LEVELS_DIVISOR)
    image = _mirrored(torch.tensor(voxels), how["batch"])
    labels = _mirrored(torch.tensor(tissues), how["batch"])
    model = _basic_unet(features) if network == BASIC_UNET else _dyn_unet(features)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)

    def loss() -> torch.Tensor:
        return loss_function(model(image), labels)

    return training(model, loss, how)


def brain(edge: int | None, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the T1 image, float32, of mean 0 and deviation 1, and its tissue labels, int64.

    `edge` is that of the centred cubic crop in voxels; None is the whole image, each edge padded
    with background to a multiple of `divisor`.
    """
    image = _voxels(load_mni152_template(RESOLUTION_MM))
    grey = _voxels(load_mni152_gm_template(RESOLUTION_MM))
    white = _voxels(load_mni152_wm_template(RESOLUTION_MM))
    labels = np.full(image.shape, BACKGROUND, dtype=np.int64)
    labels[grey > LIKELY] = GREY
    labels[white > LIKELY] = WHITE
    padded = tuple(-(-length // divisor) * divisor for length in image.shape)
    shape = padded if edge is None else (edge, edge, edge)
    image, labels = _centred(image, shape), _centred(labels, shape)
    return (image - image.mean()) / image.std(), labels


def _voxels(template) -> np.ndarray:  # type: ignore[no-untyped-def]  # nibabel has no types
    return template.get_fdata(dtype=np.float32)


def _centred(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle of a volume, filled up with background where it is narrower than the shape."""
    sides = list(zip(volume.shape, shape, strict=True))
    starts = [max(0, found - wanted) // 2 for found, wanted in sides]
    inside = volume[tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))]
    missing = [max(0, wanted - found) for found, wanted in sides]
    return np.pad(inside, [(space // 2, space - space // 2) for space in missing])


def _mirrored(volume: torch.Tensor, batch: int) -> torch.Tensor:
    """Returns the volume and its mirror images, [batch, channel, x, y, z].

    The axes that the n-th image is mirrored along are the ones in n's last three binary digits.
    """
    images = [
        volume.flip([axis for axis in range(AXES) if n >> axis & 1]) if n % (1 << AXES) else volume
        for n in range(batch)
    ]
    return torch.stack(images)[:, None]


def _basic_unet(features: int) -> torch.nn.Module:
    """Each level has twice the channels of the one above, and the last one as many as the first."""
    widths = (features, features, 2 * features, 4 * features, 8 * features, features)
    return BasicUNet(spatial_dims=AXES, in_channels=1, out_channels=TISSUES, features=widths)


def _dyn_unet(features: int) -> torch.nn.Module:
    """nnU-Net, Isensee et al. 2020, doi:10.1038/s41592-020-01008-z: five levels, at most 10x."""
    strides = (1, 2, 2, 2, 2)
    return DynUNet(
        spatial_dims=AXES,
        in_channels=1,
        out_channels=TISSUES,
        kernel_size=(3,) * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[features * factor for factor in (1, 2, 4, 8, 10)],
    )
