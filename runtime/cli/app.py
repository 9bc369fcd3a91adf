"""The `plan` command: its subcommands, and what becomes of errors."""

import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from planner.cli.check import check
from planner.cli.compare import compare
from planner.cli.diff import diff
from planner.cli.early_end import ended_by_sigterm
from planner.cli.output import print_line
from planner.cli.show import report, show, trace
from planner.cli.solve import solve
from planner.cli.sweep import sweep
from profiles.schema.errors import SwapplanError
from profiles.schema.files import CREATED_BY
from runtime.cli.limits import limits
from runtime.cli.link import link
from runtime.cli.lists import devices, library, links, workloads
from runtime.cli.profile import profile
from runtime.cli.run import run

OUT_OF_MEMORY = (
    "there is not enough memory for this. Free some, raise the limit on it, or take a smaller step."
)
INTERRUPTED = 130
"""128 plus the number of the interrupt signal, as shells report it."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(CREATED_BY)
        raise typer.Exit


app = typer.Typer(
    name="plan",
    help="Plans which tensors of a training step wait in host memory, and when.\n\n"
    "Record a step, plan it for a budget, and prove the plan by training under it:\n\n"
    "    plan profile unet3d -o unet3d.profile.json.gz\n\n"
    "    plan solve unet3d.profile.json.gz --budget 50% -o unet3d.plan.json\n\n"
    "    plan run unet3d.plan.json\n\n"
    "Exit codes: 0 done, 1 a proof or a check failed, 2 a mistake in the input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show it.")
    ] = False,
) -> None:
    pass


PLANNING = (profile, solve, check, compare, sweep, limits)
READING = (show, diff, report, trace, run)
LISTING = (workloads, devices, links, link, library)
for command in (*PLANNING, *READING, *LISTING):
    app.command()(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `plan`; those of this process if None.

    Returns:
        The exit code.
    """
    try:
        with warnings.catch_warnings(), ended_by_sigterm():
            warnings.showwarning = _print_warning
            app(args=argv, prog_name="plan")
    except SwapplanError as error:
        return _failed(str(error), error.exit_code)
    except MemoryError:
        return _failed(OUT_OF_MEMORY, SwapplanError.exit_code)
    except ValueError as error:
        return _failed(_out_of_proportion(error), SwapplanError.exit_code)
    except KeyboardInterrupt:
        return _failed("interrupted", INTERRUPTED)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
        # typer turns an interrupt into this code, without a word.
        return _failed("interrupted", code) if code == INTERRUPTED else code
    return 0


def _out_of_proportion(error: ValueError) -> str:
    """Words a record that its own model refuses; other errors of values are ours."""
    from pydantic import ValidationError

    from profiles.schema.files import validation_fault

    if not isinstance(error, ValidationError):
        raise error
    found = error.errors()[0]
    content = found["input"]
    for key in reversed(found["loc"]):
        content = {key: content}
    fault = validation_fault(error, content)
    return f"no such {error.title.lower()}: {fault}. Check the figures given."


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning in one line, without the place in our source that raised it."""
    print_line(f"plan: {' '.join(str(message).split())}", error=True)


def _failed(message: str, exit_code: int) -> int:
    print_line(f"plan: {' '.join(message.splitlines())}", error=True)
    return exit_code
