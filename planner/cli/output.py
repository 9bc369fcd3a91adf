"""What commands print: tables and `Wrote …` on stdout, progress on stderr."""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from profiles.schema.errors import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Field = str | Callable[[Any], object]
Column = tuple[str, Field] | tuple[str, Field, Callable[[Any], str]]
"""A heading, a field of each row or what is made of it and, of a number, how it is written."""

PIPED_WIDTH = 80
"""Columns when the output is no terminal."""
KEY_WIDTH, NUMBER_WIDTH, TEXT_WIDTH = 28, 14, 11
"""A cell of up to so many characters does not fold to have more columns beside it."""
EDGES, BETWEEN = 4, 3
"""Characters a table takes beside its cells: its edges, and what stands between two columns."""

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


def wrote(path: Path, *, error: bool = False) -> None:
    """Says that a file is there; on stderr where stdout is for programs."""
    print_line(f"Wrote {path}", error=error)


class _TableColumn(NamedTuple):
    heading: str
    cells: tuple[str, ...]
    is_number: bool
    fold_width: int

    @property
    def whole_width(self) -> int:
        """What it takes if nothing folds."""
        return max(len(line) for cell in (self.heading, *self.cells) for line in cell.split("\n"))

    @property
    def least_width(self) -> int:
        """What it does not go below to have more columns beside it."""
        words = max(map(len, self.heading.split()), default=0)
        return min(self.whole_width, max(words, self.fold_width))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[str] = (),
    *,
    keys: int = 1,
    text_width: int = TEXT_WIDTH,
) -> None:
    """Prints cells of text as a table, with the columns of numbers to the right.

    No line is longer than the terminal's: columns that find no room go into another table below,
    beside the first `keys` columns. A cell of text of up to `text_width` characters does not fold.
    """
    there = console()
    lines = [[_plain_lines(cell) for cell in row] for row in rows]

    def filled(at: int, heading: str) -> _TableColumn:
        is_number, cells = heading in right, tuple(row[at] for row in lines)
        width = KEY_WIDTH if at < keys else NUMBER_WIDTH if is_number else text_width
        return _TableColumn(heading, cells, is_number, width)

    every = [filled(at, heading) for at, heading in enumerate(columns)]
    for line in title.split("\n"):
        print_line(textwrap.fill(plain(line), there.width))
    for part in _parts(every, keys, there.width):
        _print_part(there, part, _widths(part, there.width))


def _parts(
    columns: Sequence[_TableColumn], keys: int, width: int
) -> Iterator[Sequence[_TableColumn]]:
    """The columns of each table that fits into a width, the keys first in each."""
    part = columns[:keys]
    for column in columns[keys:]:
        wider = [*part, column]
        if len(part) > keys and _taken(one.least_width for one in wider) > width:
            yield part
            wider = [*columns[:keys], column]
        part = wider
    yield part


def _taken(widths: Iterable[int]) -> int:
    """What a table takes, lines and all."""
    return EDGES + sum(width + BETWEEN for width in widths) - BETWEEN


def _widths(columns: Sequence[_TableColumn], width: int) -> list[int]:
    """The width of each column of a table: whole ones first, what is left to those that fold."""
    widths = [column.least_width for column in columns]
    while (room := width - _taken(widths)) > 0:
        folded = [at for at, one in enumerate(columns) if widths[at] < one.whole_width]
        if not folded:
            break
        nearest = min(folded, key=lambda at: columns[at].whole_width - widths[at])
        more = columns[nearest].whole_width - widths[nearest]
        if more * len(folded) <= room:
            widths[nearest] += more
            continue
        for at in folded[:room]:
            widths[at] += max(1, room // len(folded))
    return widths


def _print_part(there: "Console", columns: Sequence[_TableColumn], widths: Sequence[int]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["right", "left"] = "right" if column.is_number else "left"
        table.add_column(column.heading, justify=justify, overflow="fold", width=width)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(escape, row))
    there.print(table)


def print_rows(
    title: str,
    rows: Iterable[Any],
    *columns: Column,
    keys: int = 1,
    text_width: int = TEXT_WIDTH,
) -> None:
    """Prints records, or the named tuples of a pandas table, as a table; numbers to the right."""
    print_table(
        title,
        [heading for heading, *_ in columns],
        [[_cell(row, *column[1:]) for column in columns] for row in rows],
        right=[column[0] for column in columns if len(column) > 2],
        keys=keys,
        text_width=text_width,
    )


class RowsAsDone:
    """A table whose rows are printed as soon as they are known; numbers to the right."""

    def __init__(self, title: str, columns: Sequence[Column], *, first_width: int) -> None:
        """Takes note of what to print, which it does not do before there is a row.

        Args:
            title: What stands above.
            columns: The columns.
            first_width: Characters of the first one, which has a line of its own where it is
                longer; those of numbers are as wide as a figure needs.
        """
        self._title: str | None = title
        self._columns = columns
        self._widths = [
            first_width,
            *(max(len(c[0]), FIGURE_WIDTH if len(c) > 2 else 0) for c in columns[1:]),
        ]

    def add(self, row: object) -> None:
        """Prints a row."""
        if self._title is not None:
            print_line(f"{self._title}\n{self._line([c[0] for c in self._columns])}")
            self._title = None
        name, *cells = (_cell(row, *column[1:]) for column in self._columns)
        if len(name) > self._widths[0]:
            print_line(name)
            name = ""
        print_line(self._line([name, *cells]))
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
