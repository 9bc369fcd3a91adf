"""The command line: the app, and the commands that need torch."""

import sys
from collections.abc import Sequence
from typing import Final

LIGHT: Final = (
    "plan: this installation replays plans and has no commands: {} is not there. Install them with "
    "pip install 'swapplan[plan]'."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    Args:
        argv: The words after `plan`; those of this process if None.
    """
    try:
        from runtime.cli.app import main as run
    except ModuleNotFoundError as error:
        print(LIGHT.format(error.name), file=sys.stderr)
        return 2
    return run(argv)


__all__ = ["main"]
