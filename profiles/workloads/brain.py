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
    """Returns the T1 image, float32, of mean 0 and deviation 1, and its tissue labels, int64.

    `edge` is that of the centred cubic crop in voxels; None is the whole image, each edge padded
    with background to a multiple of `divisor`.
    """
    image = t1_image()
    grey = _voxels(load_mni152_gm_template(RESOLUTION_MM))
    white = _voxels(load_mni152_wm_template(RESOLUTION_MM))
    labels = np.full(image.shape, BACKGROUND, dtype=np.int64)
    labels[grey > LIKELY] = GREY
    labels[white > LIKELY] = WHITE
    padded = tuple(-(-length // divisor) * divisor for length in image.shape)
    shape = padded if edge is None else (edge, edge, edge)
    image, labels = _centred(image, shape), _centred(labels, shape)
    return (image - image.mean()) / image.std(), labels


def t1_image() -> np.ndarray:
    """Returns the whole T1 image, float32, as the template has it: x, y, and z from neck to top."""
    return _voxels(load_mni152_template(RESOLUTION_MM))


def _voxels(template) -> np.ndarray:  # type: ignore[no-untyped-def]  # nibabel has no types
    return template.get_fdata(dtype=np.float32)


def _centred(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle of a volume, filled up with background where it is narrower than the shape."""
    sides = list(zip(volume.shape, shape, strict=True))
    starts = [max(0, found - wanted) // 2 for found, wanted in sides]
    inside = volume[tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))]
    missing = [max(0, wanted - found) for found, wanted in sides]
    return np.pad(inside, [(space // 2, space - space // 2) for space in missing])
