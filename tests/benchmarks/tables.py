"""Tables of figures: rows in Markdown as they come, and in a file."""

import csv
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


def print_machine() -> None:
    """Says when and where figures were measured."""
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores, "
        f"{platform.machine()}, python {platform.python_version()}\n"
    )


def print_headings(headings: Sequence[str]) -> None:
    """Begins a Markdown table."""
    print_row(headings)
    print_row(["---"] * len(headings))


def print_row(cells: Sequence[str]) -> None:
    """Prints a row of it at once: the whole may take hours."""
    print(f"| {' | '.join(cells)} |", flush=True)


def written(rows: Iterable[Row], path: Path | None) -> Iterator[Row]:
    """Passes dataclasses on and writes each to a CSV file at once, if there is one."""
    if path is None:
        yield from rows
        return
    with path.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            figures: dict[str, Any] = asdict(row)  # type: ignore[call-overload]
            if writer is None:
                writer = csv.DictWriter(file, list(figures))
                writer.writeheader()
            writer.writerow(figures)
            file.flush()
            yield row
