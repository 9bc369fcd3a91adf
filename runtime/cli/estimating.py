"""`plan profile --device NAME` for a device that is not there: the step is estimated."""

from typing import TYPE_CHECKING

from profiles.schema.errors import QuantityError
from profiles.schema.profile import CPU, CUDA

if TYPE_CHECKING:
    from profiles.schema.profile import Link, Profile, WorkloadSource
    from profiles.schema.progress import Progress
    from runtime.cli.recording import HowToRecord

RECORDED = (CPU, CUDA)
"""The devices of this machine; every other name is an accelerator to estimate for."""


def is_estimated(device: str) -> bool:
    """Whether a `--device` is estimated, not recorded."""
    return device not in RECORDED


def usual_link(device: str) -> "Link":
    """Returns the usual link of an accelerator.

    Raises:
        QuantityError: There is no such accelerator.
    """
    from profiles.hardware.accelerators import accelerator_named
    from profiles.hardware.links import link_named

    return link_named(accelerator_named(device).link)


def check_estimates(how: "HowToRecord") -> None:
    """Checks that nothing is asked of an estimate that only a device can do.

    Raises:
        QuantityError: Something is.
    """
    asked = {
        "--beyond-capacity": how.beyond_capacity,
        "--limit": how.limit_bytes is not None,
        "--data-parallel": how.data_parallel,
    }
    for option, given in asked.items():
        if given:
            raise QuantityError(
                f"{option} is for a step that is run, and one for {how.device!r} is estimated. "
                f"Leave {option} out, or record on --device cpu or cuda."
            )


def estimate_step(
    source: "WorkloadSource", link: "Link", device: str, progress: "Progress"
) -> "Profile":
    """Estimates the step of a workload on an accelerator of the table.

    Raises:
        SwapplanError: There is no such accelerator, or the step cannot be estimated.
    """
    progress("loading the workload", 0, 1)
    from profiles.estimating.estimate import estimate
    from profiles.estimating.roofline import target_of
    from profiles.hardware.accelerators import accelerator_named
    from profiles.workloads.build import build

    return estimate(
        lambda: build(source),
        target=target_of(accelerator_named(device)),
        source=source,
        link=link,
        progress=progress,
    )
