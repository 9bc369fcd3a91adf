"""What commands print: tables and `Wrote …` on stdout, progress on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.schema.errors import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Field = str | Callable[[Any], object]
Column = tuple[str, Field] | tuple[str, Field, Callable[[Any], str]]
"""A heading, a field of each row or what is made of it and, of a number, how it is written."""

PIPED_WIDTH = 160
"""Columns when the output is no terminal, so that tables in a log are not folded."""

FIGURE_WIDTH = 9
"""Characters of a time or a size with its unit."""

REFRESHES_PER_SECOND = 4
"""Drawing takes time from the steps that are being timed: seldom is better."""


def console(*, stderr: bool = False) -> "Console":
    """Returns a console on stdout or stderr."""
    from rich.console import Console

    there = Console(stderr=stderr)
    return there if there.is_terminal else Console(stderr=stderr, width=PIPED_WIDTH)


def print_line(text: str, *, error: bool = False) -> None:
    """Prints lines that may hold names or messages of others, so that no terminal obeys them."""
    print(_plain_lines(text), file=sys.stderr if error else sys.stdout, flush=error)


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def wrote(path: Path) -> None:
    """Says that a file is there."""
    print_line(f"Wrote {path}")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Prints cells of text as a table, with the columns of numbers to the right."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(_plain_lines(title)), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_plain_lines(cell)) for cell in row))
    console().print(table)


def print_rows(title: str, rows: Iterable[Any], *columns: Column) -> None:
    """Prints records, or the named tuples of a pandas table, as a table; numbers to the right."""
    print_table(
        title,
        [heading for heading, *_ in columns],
        [[_cell(row, *column[1:]) for column in columns] for row in rows],
        right=[column[0] for column in columns if len(column) > 2],
    )


class RowsAsDone:
    """A table whose rows are printed as soon as they are known; numbers to the right."""

    def __init__(self, title: str, columns: Sequence[Column], *, first_width: int) -> None:
        """Takes note of what to print, which it does not do before there is a row.

        Args:
            title: What stands above.
            columns: The columns.
            first_width: Characters of the first one; the others are as wide as a figure needs.
        """
        self._title: str | None = title
        self._columns = columns
        self._widths = [first_width, *(max(len(c[0]), FIGURE_WIDTH) for c in columns[1:])]

    def add(self, row: object) -> None:
        """Prints a row."""
        if self._title is not None:
            print_line(f"{self._title}\n{self._line([c[0] for c in self._columns])}")
            self._title = None
        print_line(self._line([_cell(row, *column[1:]) for column in self._columns]))
        sys.stdout.flush()

    def _line(self, cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if len(column) > 2 else cell.ljust(width)
            for cell, width, column in zip(cells, self._widths, self._columns, strict=True)
        ]
        return "  ".join(padded).rstrip()


def _cell(row: object, field: Field, text: Callable[[Any], str] = str) -> str:
    return text(field(row) if callable(field) else getattr(row, field))


@contextmanager
def progress_bars() -> "Iterator[_Bars | _Lines]":
    """Shows how far long work is: bars on a terminal, else one line per kind of work."""
    if not console(stderr=True).is_terminal:
        yield _Lines()
        return
    from rich import progress

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console(stderr=True),
        refresh_per_second=REFRESHES_PER_SECOND,
    ) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar per kind of work."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last: TaskID | None = None

    def __call__(self, what: str, done: int, total: int, /) -> None:
        if what not in self._tasks:
            # Whatever came before is over when the next kind of work starts.
            for earlier in self._bars.tasks:
                self._bars.update(earlier.id, completed=earlier.total)
            self._tasks[what] = self._bars.add_task(what, total=total, note="")
        self._last = self._tasks[what]
        self._bars.update(self._last, completed=done, total=total)

    def note(self, text: str) -> None:
        if self._last is not None:
            self._bars.update(self._last, note=text)


class _Lines:
    """One line per kind of work, with the note that stood before it."""

    def __init__(self) -> None:
        self._printed: set[str] = set()
        self._note = ""
        self._console = console(stderr=True)

    def __call__(self, what: str, done: int, total: int, /) -> None:
        if what not in self._printed:
            self._printed.add(what)
            note = f" {self._note}" if self._note else ""
            self._console.print(plain(f"{what} ...{note}"), markup=False, highlight=False)

    def note(self, text: str) -> None:
        self._note = f"({text})"
