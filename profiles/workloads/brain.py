"""A real brain with no download: the MNI152 template that nilearn ships, at 1 mm.

The template: Fonov et al. 2011, Unbiased average age-appropriate atlases for pediatric studies,
NeuroImage 54(1), doi:10.1016/j.neuroimage.2010.07.033.
"""

import numpy as np
from nilearn.datasets import (
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)

BACKGROUND, GREY, WHITE = range(3)
RESOLUTION_MM = 1
LIKELY = 0.5
"""A voxel belongs to a tissue whose probability map says more than this."""


def brain(edge: int | None, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the T1 image and its tissue labels.

    Args:
        edge: Edge of the centred cubic crop in voxels; None for the whole image, padded with
            background to multiples of `divisor`.
        divisor: What each edge of the whole image must be a multiple of.

    Returns:
        The image, float32, of mean 0 and standard deviation 1; and the labels, int64.
    """
    image = t1_image()
    grey = _voxels(load_mni152_gm_template(RESOLUTION_MM))
    white = _voxels(load_mni152_wm_template(RESOLUTION_MM))
    labels = np.full(image.shape, BACKGROUND, dtype=np.int64)
    labels[grey > LIKELY] = GREY
    labels[white > LIKELY] = WHITE
    if edge is None:
        image, labels = _padded(image, divisor), _padded(labels, divisor)
    else:
        image, labels = _cropped(image, edge), _cropped(labels, edge)
    return (image - image.mean()) / image.std(), labels


def t1_image() -> np.ndarray:
    """Returns the whole T1 image, float32, as the template has it: x, y, and z from neck to top."""
    return _voxels(load_mni152_template(RESOLUTION_MM))


def _voxels(template) -> np.ndarray:  # type: ignore[no-untyped-def]  # nibabel has no types
    return template.get_fdata(dtype=np.float32)


def _cropped(volume: np.ndarray, edge: int) -> np.ndarray:
    starts = [(length - edge) // 2 if length > edge else 0 for length in volume.shape]
    inside = volume[tuple(slice(start, start + edge) for start in starts)]
    # A crop wider than the image's shortest side (189 voxels) is filled up with background.
    return _padded_to(inside, (edge, edge, edge))


def _padded(volume: np.ndarray, divisor: int) -> np.ndarray:
    return _padded_to(volume, tuple(-(-n // divisor) * divisor for n in volume.shape))


def _padded_to(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    missing = [wanted - found for wanted, found in zip(shape, volume.shape, strict=True)]
    return np.pad(volume, [(space // 2, space - space // 2) for space in missing])
