"""What commands print: tables and `Wrote …` on stdout, progress on stderr."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

PIPED_WIDTH = 160
"""Columns when the output is no terminal, so that tables in a log are not folded."""

REFRESHES_PER_SECOND = 4
"""Drawing takes time from the steps that are being timed: seldom is better."""


def console(*, stderr: bool = False) -> "Console":
    """Returns a console on stdout or stderr."""
    from rich.console import Console

    there = Console(stderr=stderr)
    return there if there.is_terminal else Console(stderr=stderr, width=PIPED_WIDTH)


def wrote(path: Path) -> None:
    """Says that a file is there."""
    print(f"Wrote {path}")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Prints a table.

    Args:
        title: Above it.
        columns: Headings.
        rows: Cells, as text.
        right: Headings of the columns that hold numbers.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Shows how far long work is: bars on a terminal, else one line per kind of work.

    Yields:
        What the work calls.
    """
    if not console(stderr=True).is_terminal:
        yield _lines()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console(stderr=True), refresh_per_second=REFRESHES_PER_SECOND
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                # Whatever came before is over when the next kind of work starts.
                for earlier in bars.tasks:
                    bars.update(earlier.id, completed=earlier.total)
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def _lines() -> Progress:
    told: set[str] = set()
    to_stderr = console(stderr=True)

    def show(what: str, done: int, total: int) -> None:
        if what not in told:
            told.add(what)
            to_stderr.print(f"{what} ...", markup=False, highlight=False)

    return show
