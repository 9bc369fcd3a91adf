"""Running CBC: where its files are, and what is said if they can be nowhere."""

from pathlib import Path

import pytest

from planner.ilp.deadline import SolverName
from planner.ilp.solver import Cbc
from planner.solving import solve
from profiles.schema.errors import SolverError
from tests.support.planning.toys import activation, fixed, toy


def test_cbc_in_a_folder_with_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(SolverError, match=r"space in its name, and TMPDIR is '.*a b'.*highs"):
        Cbc({})
    assert not list(folder.iterdir())


def test_cbc_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(SolverError, match=r"No such file or directory.*TMPDIR"):
        Cbc({})


def test_cbc_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    profile = toy(10, 10, 10, storages=[activation("pack:x", 6, 0, 2), fixed("w", 6, 1)])
    solve(profile, budget_bytes=6, min_size_bytes=1, solver=SolverName.CBC)
    assert not list(tmp_path.iterdir())
