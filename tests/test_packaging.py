"""What an installation brings: typed packages, and no more than what replays needs."""

import re
import tomllib

from tests.support.commands import ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("planner", "profiles", "runtime")


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def test_types_are_shipped() -> None:
    shipped = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in shipped[package]


def test_an_installation_without_extras_replays() -> None:
    """All that is importable from `runtime` but callbacks of frameworks, with what the extras bring
    taken away."""
    needed = names_of(PROJECT["project"]["dependencies"])
    assert needed == {"numpy", "pydantic", "torch"}
    extras = PROJECT["project"]["optional-dependencies"]
    optional = {name.replace("-", "_") for extra in extras.values() for name in names_of(extra)}
    assert {"pulp", "highspy", "pandas", "matplotlib", "typer", "rich"} <= optional
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(optional)!r}))
import runtime
names = (name for name in runtime.__all__ if not name.endswith("Callback"))
print(*(getattr(runtime, name).__module__ for name in names))
"""
    assert "runtime.replay.load" in python(code).stdout
