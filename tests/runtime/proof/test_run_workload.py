"""`plan run`: where the Python file is that a plan names."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from profiles.schema.errors import WorkloadError
from runtime.cli.app import app
from runtime.cli.run import _found
from tests.support.documents import TEXTS


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folder at hand, and the plan's."""
    here, plans = tmp_path / "here", tmp_path / "plans"
    here.mkdir()
    plans.mkdir()
    monkeypatch.chdir(here)
    return here, plans


def test_a_path_is_looked_for_here_first(folders: tuple[Path, Path]) -> None:
    here, plans = folders
    (here / "mine.py").touch()
    (plans / "mine.py").touch()
    assert _found("mine.py:train", plans / "x.plan.json") == "mine.py:train"


@pytest.mark.parametrize("name", ["mine.py", "sub/mine.py"])
def test_a_path_is_looked_for_beside_the_plan(folders: tuple[Path, Path], name: str) -> None:
    _, plans = folders
    (plans / "sub").mkdir()
    (plans / name).touch()
    found, _, function = _found(f"{name}:train", Path("../plans/x.plan.json")).rpartition(":")
    assert Path(found).samefile(plans / name)
    assert Path(found).is_absolute()
    assert function == "train"


def test_a_path_that_leads_nowhere(folders: tuple[Path, Path]) -> None:
    here, plans = folders
    with pytest.raises(WorkloadError) as refused:
        _found("sub/mine.py:train", plans / "x.plan.json")
    assert str(refused.value).startswith(f"sub/mine.py: there is no such file, neither in {here}")
    assert "--workload path/to/mine.py:train" in str(refused.value)
    with pytest.raises(WorkloadError, match=r"^/nowhere/mine.py: there is no such file\. The plan"):
        _found("/nowhere/mine.py:train", plans / "x.plan.json")


@pytest.mark.parametrize("reference", ["unet3d", "", "mine.py"])
def test_what_is_no_path_is_left_as_it_is(folders: tuple[Path, Path], reference: str) -> None:
    assert _found(reference, folders[1] / "x.plan.json") == reference


def test_help_and_guides_say_that_the_file_is_run() -> None:
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"]).output.split())
    assert "that file is run" in shown
    assert any("`plan run` runs that file" in " ".join(text.split()) for text in TEXTS.values())
