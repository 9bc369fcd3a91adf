"""Makes the pictures of README.md again: `python -m analysis.readme_pictures PROFILE FOLDER`.

They are those of the notebooks, smaller. All is estimated or simulated, so any machine draws them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from analysis.idle_gaps import idle_gaps_table
from analysis.kind_memory import kind_memory_table
from analysis.profile_plots import idle_gaps_figure, kind_memory_figure
from planner.report.plots import png_bytes
from planner.report.step_plot import step_figure
from planner.solving import solve
from profiles.hardware.links import link_named
from profiles.schema.files import write_atomically
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile

BUDGET_BYTES = 15 * 2**30
DOTS_PER_INCH = 90
"""A picture is 810 pixels wide, and below 80 kB."""


def pictures(profile: Profile) -> Iterator[tuple[str, Figure]]:
    """Yields the name of each picture and the picture.

    Args:
        profile: The step that they are of.
    """
    yield (
        "bytes.png",
        kind_memory_figure(
            kind_memory_table(profile),
            title="What a step keeps: 3D U-Net, a V100 with 16 GB",
            times=profile.times,
            capacity_bytes=profile.device.memory_bytes,
        ),
    )
    links = [link_named("pcie3-x16"), link_named("nvlink2-ac922-4gpu")]
    gaps = idle_gaps_table(profile, links)
    title = "Idle time against size: right of a line, a swap alone is hidden"
    yield "idle.png", idle_gaps_figure(gaps, links, title=title, times=profile.times)
    plan = solve(profile, budget_bytes=BUDGET_BYTES, link=links[0])
    title = "A training step that needs 24.8 GiB (3D U-Net, V100), within 15 GiB, over PCIe 3"
    yield "plan.png", step_figure(plan, title=title)


def main(profile: Path, folder: Path) -> None:
    """Writes the pictures of a profile into a folder that is there.

    Raises:
        FileError: The profile cannot be read, or a picture cannot be written.
    """
    for name, figure in pictures(read_profile(profile)):
        write_atomically(png_bytes(figure, dots_per_inch=DOTS_PER_INCH), folder / name)
        print(f"Wrote {folder / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
