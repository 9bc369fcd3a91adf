"""Several courses in one file, from recording to proof, as commands."""

from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan
from planner.plan.plan_set import read_plan_set, write_plan_set
from profiles.schema.profile_file import read_profile
from profiles.schema.profile_set import read_profile_set, write_profile_set
from runtime.cli import main
from tests.cli.conftest import Failure
from tests.support.planning.edited_files import plans_of_it, profiles_of_it
from tests.support.planning.invariants import check_plan
from tests.support.training.fixed_times import courses_with_fixed_times

SCRIPT = """
import torch

def train(rows="96,80,64"):
    sizes = [int(text) for text in rows.split(",")]
    model = torch.nn.Sequential(*[torch.nn.Linear(48, 48) for _ in range(5)])
    optimizer = torch.optim.AdamW(model.parameters())
    steps = 0
    def step():
        nonlocal steps
        batch = torch.randn(sizes[steps % len(sizes)], 48)
        steps += 1
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return model, optimizer, step
"""


BUDGET, LAYERS = "70%", 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "varying.py").write_text(SCRIPT)
    return tmp_path


def record() -> None:
    assert main(["profile", "varying.py:train", "--courses", "3"]) == 0
    path = Path("varying.profiles.json.gz")
    write_profile_set(courses_with_fixed_times(read_profile_set(path)), path)


@pytest.mark.usefixtures("wide_tables")
def test_from_recording_to_proof(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record()
    solve = ["solve", "varying.profiles.json.gz", "--budget", BUDGET, "--time-limit", "2"]
    assert main([*solve, "--without", "recompute"]) == 0
    printed = capsys.readouterr().out
    for rows in (96, 80, 64):
        assert printed.count(f"model(float32[{rows}x48])") == 2
    assert "Wrote varying.plans.json\n" in printed
    plans = read_plan_set(folder / "varying.plans.json")
    profiles = read_profile_set(folder / "varying.profiles.json.gz")
    largest_bytes = max(entry.profile.peak_bytes for entry in profiles.courses)
    assert {entry.plan.budget_bytes for entry in plans.courses} == {largest_bytes * 7 // 10}
    for entry, recorded in zip(plans.courses, profiles.courses, strict=True):
        assert entry.course == recorded.course
        check_plan(entry.plan, recorded.profile)
    assert main(["show", "varying.plans.json"]) == 0
    assert main(["show", "varying.profiles.json.gz"]) == 0
    assert capsys.readouterr().out.count("FILE#2 names the second") == 2
    assert main(["check", "varying.plans.json", "varying.profiles.json.gz"]) == 0
    assert capsys.readouterr().out.count("Checked: every figure is what the files say.") == 3
    assert main(["run", "varying.plans.json", "--steps", "6"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("Proof: passed\n")
    assert printed.count("replayed") == 3


def test_checkpointing_is_switched_off_in_all_of_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointed = SCRIPT.replace(
        "model(batch).square()",
        "torch.utils.checkpoint.checkpoint(model, batch, use_reentrant=False).square()",
    )
    assert checkpointed != SCRIPT
    (folder / "varying.py").write_text(f"import torch.utils.checkpoint\n{checkpointed}")
    assert main(["profile", "varying.py:train", "--courses", "3", "--no-checkpointing"]) == 0
    profiles = read_profile_set(folder / "varying.profiles.json.gz")
    for entry in profiles.courses:
        assert entry.profile.without_checkpointing
        assert sum(op.name == "aten.addmm.default" for op in entry.profile.ops) == LAYERS
    solve = ["solve", "varying.profiles.json.gz", "--budget", BUDGET, "--time-limit", "1"]
    assert main(solve) == 0
    assert main(["run", "varying.plans.json", "--steps", "6"]) == 0
    assert capsys.readouterr().out.endswith("Proof: passed\n")


def test_a_number_names_one_for_every_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    one = "varying.profiles.json.gz#2"
    swaps = ["--budget", BUDGET, "--time-limit", "1", "--without", "recompute"]
    assert main(["solve", one, *swaps]) == 0
    plan = folder / "varying-2.plan.json"
    assert read_plan(plan).profile_fingerprint == read_profile(folder / one).fingerprint()
    assert main(["show", one]) == 0
    assert main(["check", str(plan), one]) == 0
    assert main(["solve", "varying.profiles.json.gz", *swaps]) == 0
    for command in (
        ["show", "varying.plans.json#1", "--png", "x.png"],
        ["report", "varying.plans.json#2"],
        ["trace", "varying.plans.json#3"],
        ["diff", "varying.plans.json#1", "varying.plans.json#3"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    assert (folder / "varying-2.html").exists()
    assert (folder / "varying-3.trace.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "x.plans.json"], "it holds several courses, expected one"),
        (["trace", "x.plans.json"], "it holds several courses, expected one"),
        (["show", "x.plans.json", "--png", "x.png"], "it holds several courses, expected one"),
        (["show", "x.plans.json", "--json"], "it holds several courses, expected one"),
        (["diff", "x.plans.json", "x.plans.json#1"], "it holds several courses, expected one"),
        (["show", "x.plans.json#3"], "the file holds courses 1 to 2"),
        (["sweep", "x.profiles.json", "--budgets", "50%"], "several courses, expected one"),
        (["run", "x.plans.json", "--workers", "2"], "are proved by one process"),
        (["run", "x.plans.json", "--slots", "x.csv"], "are proved by one process"),
        (["solve", "x.profiles.json", "--budget", "1B"], "budget 1 bytes cannot be met"),
        (["solve", "x.profiles.json", "--budget", "15", "-o", "x.profiles.json"], "be lost"),
        (
            ["profile", "mlp", "--courses", "2", "--device", "h200"],
            "--courses 2 does not go with an estimate",
        ),
        (
            ["profile", "mlp", "--courses", "2", "--beyond-capacity", "--limit", "1MiB"],
            "--courses 2 does not go with --beyond-capacity",
        ),
        (["profile", "mlp", "--courses", "2", "--data-parallel"], "with --data-parallel"),
    ],
)
def test_what_cannot_be_asked_for(
    folder: Path, failure: Failure, words: list[str], message: str
) -> None:
    write_plan_set(plans_of_it(), folder / "x.plans.json")
    write_profile_set(profiles_of_it(), folder / "x.profiles.json")
    assert message in failure(*words)
