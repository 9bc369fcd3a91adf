"""The examples in README.md and the guides work as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan
from profiles.schema.profile_file import read_profile
from tests.support.commands import ROOT
from tests.support.documents import GUIDES, README, TEXTS
from tests.support.training.fixed_times import give_fixed_times

# What an installation without extras lacks.
REPLAYING = """
import runpy, sys
sys.modules.update(dict.fromkeys(["highspy", "matplotlib", "pandas", "pulp", "rich", "typer"]))
sys.path.insert(0, "")
runpy.run_path(sys.argv[1])
"""


def example(name: str) -> str:
    """The code block behind `<!-- example: name -->`."""
    code = rf"^<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)^```$"
    found = [one for text in TEXTS.values() for one in re.findall(code, text, re.DOTALL | re.M)]
    assert len(found) == 1, f"there are {len(found)} examples {name!r}"
    return str(found[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("my_training.py", "loop.py", "replay.py", "plan_it.py"),
        *("within.py", "loop_within.py", "record_in_loop.py"),
    ):
        (tmp_path / name).write_text(example(name))
    return tmp_path


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
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
    loss = run(folder, "-c", REPLAYING, "replay.py")
    assert re.fullmatch(r"loss \d\.\d{4}\n", loss)
    assert run(folder, "loop.py").startswith("swapplan: 10 steps; 0 fell back to resident")


def test_all_from_python(folder: Path) -> None:
    # Its times are this machine's. Without activations away, no plan meets the budget.
    assert "pack:" in run(folder, "plan_it.py")
    plan = read_plan(folder / "my.plan.json")
    assert plan.swaps
    assert re.fullmatch(r"loss \d\.\d{4}\n", run(folder, "replay.py"))


def test_loops_within_a_budget(folder: Path) -> None:
    """How many steps are recorded depends on when their times settle on this machine."""
    first, second = run(folder, "within.py"), run(folder, "within.py")
    assert first.startswith("swapplan: 20 steps within 60%: ")
    assert second.startswith("swapplan: 20 steps within 60%: ")
    two_courses = run(folder, "loop_within.py").splitlines()
    assert two_courses[0].startswith("swapplan: 30 steps within 2MiB: ")
    assert len(two_courses) == 3


def test_a_loop_that_records(folder: Path) -> None:
    run(folder, "record_in_loop.py")
    recorded = read_profile(folder / "loop.profile.json.gz")
    assert recorded.link.name == "pcie4-x16"
    assert recorded.workload.reference == ""


def test_the_commands_of_the_demo_are_those_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text()
    settings = dict(re.findall(r"^(DEMO_\w+) \?= (\S+)$", makefile, re.M))
    solving = f"--budget {settings['DEMO_BUDGET']} --d2h-bandwidth {settings['DEMO_LINK']}"
    assert f"plan solve unet3d.profile.json.gz {solving}\n" in README
    for command in ("plan profile unet3d", "plan solve", "plan run"):
        assert command in README
        assert command in makefile


def test_the_readme_is_one_that_is_read() -> None:
    lines = README.splitlines()
    assert len(lines) <= 130
    limits = README.split("## Limits")[1].split("\n## ")[0]
    assert len(re.findall(r"^- ", limits, re.M)) == 8


def test_links_and_pictures_lead_somewhere() -> None:
    for path, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (path.parent / target).exists(), (path.name, target)


def test_every_guide_is_named_in_the_readme() -> None:
    assert len(GUIDES) >= 9
    for guide in GUIDES:
        assert guide.relative_to(ROOT).as_posix() in README
