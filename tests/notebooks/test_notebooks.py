"""Every notebook runs from top to bottom with what is shipped, and is kept with what it showed."""

import ast
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.commands import PATIENCE_S, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_BYTES = 300_000
LONGEST_CELL = 20
"""Lines; what needs more belongs in a module, where it is tested."""
LOGIC = (
    ast.FunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.Try,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
    ast.GeneratorExp,
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of(outputs: list[Any]) -> set[str]:
    return {kind for output in outputs for kind in output.get("data", {})}


def statements(source: str) -> ast.Module:
    """A cell without its `%magic` lines."""
    return ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_it_is_stored_with_output_that_is_small(path: Path) -> None:
    """So that it can be read where nothing is run."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST_BYTES
    cells = code_cells(notebook)
    again = f"python -m analysis.store_outputs {path.stem}"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), again
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result"}
    assert {"text/html", "image/png"} <= kinds_of(outputs)
    assert not any(cell.metadata for cell in cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    written = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert str(ROOT) not in written


@each_notebook
def test_it_asks_one_question_and_holds_no_logic(path: Path) -> None:
    notebook = read(path)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title = first.source.splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        logic = [node for node in ast.walk(statements(cell.source)) if isinstance(node, LOGIC)]
        # A training step to look at is what the notebook is about.
        assert [node for node in logic if getattr(node, "name", "") != "step"] == [], cell.source


@each_notebook
def test_it_runs_and_shows_tables_and_pictures(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither the user's settings nor their history.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(ROOT), str(ROOT / "notebooks"), os.getenv("PYTHONPATH", "")]),
    )
    notebook = read(path)
    for cell in code_cells(notebook):
        # Any plan shows something.
        cell.source = re.sub(r"time_limit_s=\d+", "time_limit_s=0.5", cell.source)
    NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    # A warning or a progress bar would stand in the reader's way.
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert {"text/html", "image/png"} <= kinds_of(outputs)
