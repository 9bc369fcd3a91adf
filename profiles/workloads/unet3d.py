"""The main job: a 3D U-Net that finds grey and white matter in a brain image."""

from typing import Unpack

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, DynUNet

from profiles.hooks.workload import Workload
from profiles.workloads.brain import brain
from profiles.workloads.catalog import BASIC_UNET, LEVELS_DIVISOR
from profiles.workloads.training_step import HowToTrain, training

TISSUES = 3
AXES = 3


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
