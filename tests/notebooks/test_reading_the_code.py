"""The guide through the code names what is there."""

import ast
import re
from pathlib import Path

from tests.support.commands import ROOT

GUIDE = ROOT / "notebooks" / "guides" / "reading_the_code.md"


def named(text: str) -> dict[Path, list[str]]:
    """The files of the guide's numbered lines, and the functions named after each."""
    items = re.split(r"^\d+\. ", text, flags=re.M)[1:]
    codes = [re.findall(r"`([^`]+)`", item) for item in items]
    dotted = re.compile(r"[A-Z_]\w*\.\w+")
    return {
        ROOT / file: [*_before_colon(item), *filter(dotted.fullmatch, others)]
        for item, (file, *others) in zip(items, codes, strict=True)
    }


def _before_colon(item: str) -> list[str]:
    _, *functions = re.findall(r"`([^`]+)`", re.split(r":\s", item)[0])
    return functions


def defined(path: Path) -> set[str]:
    """Functions and classes of a file, methods with their class."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (child for child in node.body if isinstance(child, ast.FunctionDef))
            found.update(f"{node.name}.{method.name}" for method in methods)
    return found


def test_the_guide_names_what_is_there() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    files = named(text)
    assert 0 < len(files) <= 10
    assert len(text.splitlines()) <= 60
    for path, functions in files.items():
        assert path.is_file(), path
        assert functions, path
        assert set(functions) <= defined(path), path
