"""The pictures of README.md are there and small."""

from pathlib import Path

import pytest
from matplotlib import image

FOLDER = Path(__file__).parents[2] / "notebooks" / "pictures"
LARGEST_BYTES = 80_000


@pytest.mark.parametrize("name", ["bytes.png", "idle.png", "plan.png"])
def test_a_picture_is_small_and_as_wide_as_the_page(name: str) -> None:
    path = FOLDER / name
    assert path.stat().st_size < LARGEST_BYTES
    assert image.imread(path).shape[1] == 810
