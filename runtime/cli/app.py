"""The `plan` command: the planning commands, and those that need torch."""

from collections.abc import Sequence

from planner.cli.main import PLANNING, READING, app_of, run_app
from runtime.cli.limits import limits
from runtime.cli.link import link
from runtime.cli.lists import devices, library, links, workloads
from runtime.cli.profile import profile
from runtime.cli.run import run

ABOUT = (
    "Plans which tensors of a training step wait in host memory, which are made again, and when."
    "\n\n"
    "Record a step, plan it for a budget, and prove the plan by training under it:\n\n"
    "    plan profile unet3d\n\n"
    "    plan solve unet3d.profile.json.gz --budget 40%\n\n"
    "    plan run unet3d.plan.json"
)
LISTING = (workloads, devices, links, link, library)

app = app_of((profile, *PLANNING, limits, *READING, run, *LISTING), ABOUT, name="plan")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    Args:
        argv: The words after `plan`; those of this process if None.
    """
    return run_app(app, argv, name="plan")
