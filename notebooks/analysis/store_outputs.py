"""Runs notebooks and keeps what they show in them: `python -m analysis.store_outputs [NAME ...]`.

So they can be read where nothing is run. Without names it runs all.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1]
PATIENCE_S = 3600


def executed(path: Path) -> Any:
    """Returns a notebook with its output, and nothing that differs from run to run but figures."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=PATIENCE_S,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all of them, and writes them back."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(NOTEBOOKS.parent), str(NOTEBOOKS)])
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or path.stem in names:
            nbformat.write(executed(path), path)
            print(f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
