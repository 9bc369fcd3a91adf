"""The planning commands as an app, and what becomes of errors in any app of ours."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer

from planner.cli.check import check
from planner.cli.compare import compare
from planner.cli.diff import diff
from planner.cli.early_end import ended_by_sigterm
from planner.cli.examples import examples_text
from planner.cli.output import print_line
from planner.cli.show import report, show, trace
from planner.cli.solve import solve
from planner.cli.sweep import sweep
from profiles.schema.errors import SwapplanError
from profiles.schema.files import CREATED_BY

OUT_OF_MEMORY = (
    "there is not enough memory for this. Free some, raise the limit on it, or take a smaller step."
)
INTERRUPTED = 130
"""128 plus the number of the interrupt signal, as shells report it."""
EXIT_CODES = (
    "Exit codes: 0 done, 1 a proof or a check failed, 2 a mistake in the input, 130 interrupted."
)
PLANNING = (solve, check, compare, sweep)
READING = (show, diff, report, trace)
NAME = "python -m planner"
ABOUT = (
    "Plans which tensors of a training step wait in host memory, which are made again, and when. "
    "These commands need no torch; 'plan' has all of them."
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(CREATED_BY)
        raise typer.Exit


def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show it.")
    ] = False,
) -> None:
    pass


def app_of(commands: Iterable[Callable[..., None]], about: str, *, name: str) -> typer.Typer:
    """Returns an app of commands, each with its examples."""
    app = typer.Typer(
        name=name,
        help=f"{about}\n\n{EXIT_CODES}",
        no_args_is_help=True,
        # Shells complete what is one word.
        add_completion=" " not in name,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_before_any_command)
    for command in commands:
        app.command(epilog=examples_text(command.__name__))(command)
    return app


def run_app(app: typer.Typer, argv: Sequence[str] | None, *, name: str) -> int:
    """Runs one command of an app.

    Args:
        app: The app.
        argv: The words after its name; those of this process if None.
        name: What the user typed to get here.

    Returns:
        The exit code.
    """
    try:
        with warnings.catch_warnings(), ended_by_sigterm():
            warnings.showwarning = _print_warning
            app(args=argv, prog_name=name)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one planning command; returns the exit code.

    Args:
        argv: The words after `python -m planner`; those of this process if None.
    """
    app = app_of((*PLANNING, *READING), ABOUT, name=NAME)
    return run_app(app, argv, name=NAME)


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
