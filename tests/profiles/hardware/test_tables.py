"""Both tables of this room come with the package."""

import fnmatch
import tomllib
from pathlib import Path

from profiles.hardware import links


def test_every_table_is_packaged() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    settings = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["profiles.hardware"]
    tables = sorted(path.name for path in Path(links.__file__).parent.glob("*.toml"))
    assert tables == ["accelerators.toml", "links.toml"]
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in tables)
