"""Where commands write if they are not told, and what they do not write over."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from planner.cli.output_file import beside, of_workload
from planner.plan.plan_file import read_plan
from profiles.schema.profile_file import read_profile
from runtime.cli import main
from tests.cli.conftest import Failure
from tests.support.commands import TRAINING, solved


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("runs/x.profile.json.gz", "runs/x.plan.json"),
        ("x.profile.json", "x.plan.json"),
        ("x.gz", "x.plan.json"),
        ("/a/x", "/a/x.plan.json"),
        ("library:unet3d-144-h200", "unet3d-144-h200.plan.json"),
    ],
)
def test_what_is_made_from_a_file_goes_beside_it(file: str, expected: str) -> None:
    assert beside(Path(file), ".plan.json") == Path(expected)


@pytest.mark.parametrize(
    ("workload", "expected"),
    [("unet3d", "unet3d.json"), ("code/mine.py:train", "mine.json")],
)
def test_what_is_made_from_a_workload_is_called_after_it(workload: str, expected: str) -> None:
    assert of_workload(workload, ".json") == Path(expected)


def test_three_commands_need_no_name_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TRAINING)

    def wrote(words: Sequence[str]) -> str:
        assert main(words) == 0
        return capsys.readouterr().out.splitlines()[-1]

    recording = ["profile", "mine.py:train", "--warmup", "1", "--steps", "1"]
    assert wrote(recording) == "Wrote mine.profile.json.gz"
    assert read_profile(Path("mine.profile.json.gz")).workload.reference == "mine.py:train"
    solving = ["solve", "mine.profile.json.gz", "--budget", "100%"]
    assert wrote(solving) == "Wrote mine.plan.json"
    assert wrote(["report", "mine.plan.json"]) == "Wrote mine.html"
    assert wrote(["trace", "mine.plan.json"]) == "Wrote mine.trace.json"
    # Each is replaced by the next of its kind.
    assert wrote(solving) == "Wrote mine.plan.json"
    assert wrote(["report", "mine.plan.json"]) == "Wrote mine.html"


def test_an_older_plan_is_replaced_and_nothing_else(
    profile_file: Path, failure: Failure, capsys: pytest.CaptureFixture[str]
) -> None:
    solved(profile_file, "--budget", "70%")
    assert solved(profile_file, "--budget", "100").budget_bytes == 100
    plan = profile_file.with_name("toy.plan.json")
    for path, there in (
        (profile_file.with_name("notes.txt"), "no file of swapplan's"),
        (profile_file.with_name("other.json"), "a profile"),
    ):
        path.write_bytes(b"mine" if path.suffix == ".txt" else profile_file.read_bytes())
        before = path.read_bytes()
        line = failure("solve", profile_file, "--budget", "70%", "-o", path)
        assert f"{path}: {there} is there, and a plan would replace it" in line
        assert path.read_bytes() == before
    for words in (("report", plan, "-o"), ("show", plan, "--png")):
        assert "a profile is there" in failure(*words, path)
        assert path.read_bytes() == before
    assert read_plan(plan).budget_bytes == 100


def test_an_empty_file_is_no_loss(profile_file: Path) -> None:
    profile_file.with_name("toy.plan.json").touch()
    assert solved(profile_file, "--budget", "70%").swaps
