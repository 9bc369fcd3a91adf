"""Runs notebooks and keeps what they show in them: `python -m analysis.store_outputs [NAME ...]`.

So they can be read where nothing is run. Without names it runs all.
"""

import base64
import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1]
PATIENCE_S = 3600
COLOURS = 64


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
    for data in (output.get("data", {}) for cell in notebook.cells for output in _outputs(cell)):
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
    return notebook


def _outputs(cell: Any) -> list[Any]:
    return list(cell.get("outputs", ()))


def smaller(picture: str) -> str:
    """Returns the same picture in few colours, which plots have anyway: a third of the bytes.

    They are chosen to cover what colours there are, however small the area: a legend's patches.
    """
    stream = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3)
        few.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode() + "\n"


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all of them, and writes them back."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(NOTEBOOKS.parent), str(NOTEBOOKS)])
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or path.stem in names:
            nbformat.write(executed(path), path)
            print(f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
