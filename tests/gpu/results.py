"""Results in one folder: JSON for programs, Markdown tables for readers."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from profiles.schema.files import CREATED_BY, write_atomically
from tests.gpu.bench_device import BenchDevice

ROOT = Path("results") / "gpu"
"""Below the folder that the command is started in."""


@dataclass(frozen=True)
class Table:
    """A table of measured figures.

    Attributes:
        title: What it shows, and how its figures were had.
        columns: Headings.
        rows: Cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Returns the table as GitHub draws it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines)


class Results:
    """One folder of results.

    Attributes:
        folder: The folder, such as `results/gpu/2026-11-24-nvidia-h200`.
    """

    def __init__(self, limited: BenchDevice, root: Path = ROOT) -> None:
        self._about = {
            "created_by": CREATED_BY,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            **limited.describe(),
        }
        name = re.sub(r"[^a-z0-9]+", "-", self._about["device"].lower()).strip("-")
        self.folder = root / f"{self._about['date']}-{name}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, records: Iterable[Any], tables: Sequence[Table]) -> None:
        """Writes `name.json` and `name.md`.

        Args:
            name: Of both files.
            records: Dataclasses; every figure in them is measured unless its name says otherwise.
            tables: The same for readers.
        """
        content = {**self._about, "records": [asdict(record) for record in records]}
        self._write(f"{name}.json", json.dumps(content, indent=1))
        head = ", ".join(f"{key} {value}" for key, value in self._about.items())
        self._write(f"{name}.md", "\n\n".join([head, *(table.markdown() for table in tables)]))

    def _write(self, name: str, text: str) -> None:
        write_atomically(f"{text}\n".encode(), self.folder / name)
        print(f"Wrote {self.folder / name}")
