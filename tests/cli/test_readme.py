"""The examples in README.md work as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan
from tests.support.commands import ROOT
from tests.support.training.fixed_times import give_fixed_times

README = (ROOT / "README.md").read_text()


def example(name: str) -> str:
    """The code block behind `<!-- example: name -->`."""
    match = re.search(
        rf"^<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)^```$",
        README,
        re.DOTALL | re.MULTILINE,
    )
    assert match is not None, f"README.md has no example {name!r}"
    return match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("my_training.py", "replay.py", "plan_it.py"):
        (tmp_path / name).write_text(example(name))
    return tmp_path


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_and_the_two_lines_around_the_step(folder: Path) -> None:
    commands = [shlex.split(line) for line in example("commands").splitlines()]
    assert [command[:2] for command in commands] == [
        ["plan", "profile"],
        ["plan", "solve"],
        ["plan", "run"],
    ]
    profile, plan, proof = commands
    run(folder, "-m", "runtime.cli", *profile[1:])
    give_fixed_times(folder / "my.profile.json.gz")
    run(folder, "-m", "runtime.cli", *plan[1:])
    assert "Proof: passed" in run(folder, "-m", "runtime.cli", *proof[1:])
    assert read_plan(folder / "my.plan.json").swaps
    assert re.fullmatch(r"loss \d\.\d{4}\n", run(folder, "replay.py"))


def test_all_from_python(folder: Path) -> None:
    # Its times are this machine's. Without activations away, no plan meets the budget.
    assert "pack:" in run(folder, "plan_it.py")
    plan = read_plan(folder / "my.plan.json")
    assert plan.swaps
    assert re.fullmatch(r"loss \d\.\d{4}\n", run(folder, "replay.py"))


def test_the_commands_of_the_demo_are_those_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("plan profile unet3d", "plan solve", "plan show", "plan run"):
        assert command in README
        assert command in makefile
