"""What commands print: tables and `Wrote …` on stdout, progress on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from profiles.schema.errors import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Column = tuple[str, str] | tuple[str, str, Callable[[Any], str]]
"""A heading, a field of each row and, where that is a number, how it is written."""

PIPED_WIDTH = 160
"""Columns when the output is no terminal, so that tables in a log are not folded."""

REFRESHES_PER_SECOND = 4
"""Drawing takes time from the steps that are being timed: seldom is better."""


def console(*, stderr: bool = False) -> "Console":
    """Returns a console on stdout or stderr."""
    from rich.console import Console

    there = Console(stderr=stderr)
    return there if there.is_terminal else Console(stderr=stderr, width=PIPED_WIDTH)


def print_line(text: str, *, error: bool = False) -> None:
    """Prints text that may hold names or messages of others, so that no terminal obeys them.

    Args:
        text: One line, or several.
        error: Whether it goes to stderr.
    """
    print(_plain_lines(text), file=sys.stderr if error else sys.stdout, flush=error)


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def wrote(path: Path) -> None:
    """Says that a file is there."""
    print_line(f"Wrote {path}")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Prints cells of text as a table.

    Args:
        title: Above it.
        columns: Headings.
        rows: Cells.
        right: Headings of the columns that hold numbers.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(_plain_lines(title)), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_plain_lines(cell)) for cell in row))
    console().print(table)


def print_rows(title: str, rows: Iterable[Any], *columns: Column) -> None:
    """Prints fields of rows as a table, numbers to the right.

    Args:
        title: Above it.
        rows: Records, or the named tuples of a pandas table.
        *columns: What to print of each.
    """
    print_table(
        title,
        [heading for heading, *_ in columns],
        [[_cell(row, *column[1:]) for column in columns] for row in rows],
        right=[column[0] for column in columns if len(column) > 2],
    )


def _cell(row: object, field: str, text: Callable[[Any], str] = str) -> str:
    return text(getattr(row, field))


class Shown(Protocol):
    """Progress on the terminal, with a note beside it."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Shows how far work is."""

    def note(self, text: str) -> None:
        """Shows what it has come to so far."""


@contextmanager
def progress_bars() -> Iterator[Shown]:
    """Shows how far long work is: bars on a terminal, else one line per kind of work.

    Yields:
        What the work calls.
    """
    if not console(stderr=True).is_terminal:
        yield _Lines()
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
        TextColumn("{task.fields[note]}"),
    )
    with Progress(
        *columns, console=console(stderr=True), refresh_per_second=REFRESHES_PER_SECOND
    ) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar per kind of work."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last: TaskID | None = None

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Moves a bar."""
        if what not in self._tasks:
            # Whatever came before is over when the next kind of work starts.
            for earlier in self._bars.tasks:
                self._bars.update(earlier.id, completed=earlier.total)
            self._tasks[what] = self._bars.add_task(what, total=total, note="")
        self._last = self._tasks[what]
        self._bars.update(self._last, completed=done, total=total)

    def note(self, text: str) -> None:
        """Writes beside the last bar."""
        if self._last is not None:
            self._bars.update(self._last, note=text)


class _Lines:
    """One line per kind of work, with the note that stood before it."""

    def __init__(self) -> None:
        self._printed: set[str] = set()
        self._note = ""
        self._console = console(stderr=True)

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Prints a line when another kind of work starts."""
        if what not in self._printed:
            self._printed.add(what)
            note = f" {self._note}" if self._note else ""
            self._console.print(plain(f"{what} ...{note}"), markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Keeps a note for the next line."""
        self._note = f"({text})"
