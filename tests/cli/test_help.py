"""What every command says of itself, at 80 columns, and how shells complete it."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from typer.main import get_command

from planner.cli.examples import EXAMPLES
from planner.cli.main import main as planner_main
from runtime.cli import main
from runtime.cli.app import app
from tests.support.commands import ROOT, python

COMMANDS = [one.callback.__name__ for one in app.registered_commands if one.callback]


@pytest.mark.parametrize("command", COMMANDS)
def test_short_and_long_help_end_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert main([command, "-h"]) == 0
    assert capsys.readouterr().out == printed
    assert max(map(len, printed.splitlines())) <= 80
    words = " ".join(printed.split())
    for example in EXAMPLES[command]:
        assert example in words.split("Examples:")[1]


@pytest.mark.parametrize("example", [one for each in EXAMPLES.values() for one in each])
def test_examples_name_what_there_is(example: str) -> None:
    """Parsed as the command itself would, and not run."""
    plan, command, *words = shlex.split(example)
    assert plan == "plan"
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    with found.make_context(command, words) as context:
        assert context.params


def test_every_example_is_a_commands() -> None:
    assert sorted(EXAMPLES) == sorted(COMMANDS)


def test_the_planning_commands_run_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert planner_main(["-h"]) == 0
    listed = re.findall(r"^│ (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert listed == ["solve", "check", "compare", "sweep", "show", "diff", "report", "trace"]
    code = "import sys\nfrom planner.cli.main import main\nassert main(sys.argv[1:]) == 0"
    asked = ("show", "library:gpt2-xl-v100-16gb", "--top", "1")
    loaded = python(f"{code}\nprint(*sys.modules)", *asked).stdout
    assert "gpt2" in loaded
    assert "torch" not in loaded.splitlines()[-1].split()


def test_python_m_planner_says_how_it_was_called() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "planner", "solve"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Usage: python -m planner solve" in done.stderr


def test_shells_complete_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        asked = {"_PLAN_COMPLETE": "complete_bash", "COMP_WORDS": words}
        asked["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        done = subprocess.run(
            [sys.executable, "-c", "from runtime.cli import main; main([])"],
            cwd=ROOT,
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
        )
        return done.stdout.split()

    assert completed("plan so") == ["solve"]
    assert "--budget" in completed("plan solve --bu")


def test_without_the_packages_that_plan_it_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['typer'] = None\nfrom runtime.cli import main\nsys.exit(main([]))"
    )
    done = python(code, check=False)
    assert done.returncode == 2
    assert "pip install 'swapplan[plan]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
