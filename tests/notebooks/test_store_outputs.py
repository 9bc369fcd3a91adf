"""What `analysis.store_outputs` makes of pictures."""

import base64
import io

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from analysis.store_outputs import smaller
from planner.report.plots import GREEN, MANY, RECOMPUTE, STALL, png_bytes

LIKE = 25
"""Of 255 in each channel; what differs by less looks alike."""


def test_a_small_patch_of_a_legend_keeps_its_colour() -> None:
    """Among the many shades between the colours of what is large."""
    figure = Figure(figsize=(9, 4.5))
    axes = figure.subplots()
    for n in range(40):
        axes.plot([0, 1], [n, 2 * n], color=GREEN, alpha=(n + 1) / 40, linewidth=5)
    figure.legend(handles=[Patch(color=colour, label=colour) for colour in MANY])
    before = png_bytes(figure, dots_per_inch=100)
    after = smaller(base64.b64encode(before).decode())
    assert len(base64.b64decode(after)) < len(before)
    with Image.open(io.BytesIO(base64.b64decode(after))) as image:
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for wanted in (RECOMPUTE, STALL):
        away = np.abs(seen - 255 * np.array(to_rgb(wanted))).max(axis=1)
        assert away.min() < LIKE, wanted
