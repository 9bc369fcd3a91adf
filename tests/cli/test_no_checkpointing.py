"""`plan profile --no-checkpointing`: a plan in place of the model's own checkpointing."""

import re
from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan
from profiles.schema.profile_file import read_profile
from runtime.cli import main
from tests.support.training.fixed_times import give_fixed_times

TRAINING = """
import torch
from torch.utils.checkpoint import checkpoint

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [[torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Dropout(0.1)]
                  for _ in range(4)]
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(*block, torch.nn.Linear(128, 32)) for block in blocks)

    def forward(self, rows):
        rows = self.blocks[0](rows)
        for block in self.blocks[1:]:
            rows = rows + checkpoint(block, rows, use_reentrant=True)
        return rows

def train():
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    batch = torch.randn(128, 32)
    def step():
        optimizer.zero_grad()
        loss = (model(batch) - batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return model, optimizer, step
"""
ROW = r"the model's own checkpointing +│ +switched off +│ given"


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(TRAINING)
    return f"{tmp_path / 'mine.py'}:train"


@pytest.mark.usefixtures("wide_tables")
def test_a_plan_takes_its_place_from_the_profile_to_the_proof(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, file, plan = (tmp_path / name for name in ("k.profile.json", "m.profile.json", "m.plan"))
    assert main(["profile", script, "-o", str(kept)]) == 0
    assert "switched off" not in capsys.readouterr().out
    assert main(["profile", script, "--no-checkpointing", "-o", str(file)]) == 0
    assert re.search(ROW, capsys.readouterr().out)
    give_fixed_times(file)
    assert read_profile(file).peak_bytes > read_profile(kept).peak_bytes
    assert main(["solve", str(file), "--budget", "70%", "-o", str(plan)]) == 0
    assert re.search(ROW, capsys.readouterr().out)
    assert read_plan(plan).without_checkpointing
    assert main(["show", str(plan)]) == 0
    assert re.search(ROW, capsys.readouterr().out)
    assert main(["run", str(plan), "--steps", "4"]) == 0
    printed = capsys.readouterr().out
    assert "Proof: passed" in printed
    assert re.search(r"own checkpointing +│ +as it is +│ +switched off", printed)
    assert re.search(r"step when the profile was recorded +│ +[^│]*checkpointing off", printed)


def test_a_step_that_does_not_fit_is_recorded_without_it(script: str, tmp_path: Path) -> None:
    file = tmp_path / "x.profile.json"
    limit = ["--beyond-capacity", "--limit", "900KiB", "--steps", "1"]
    assert main(["profile", script, "--no-checkpointing", *limit, "-o", str(file)]) == 0
    assert read_profile(file).without_checkpointing


def test_an_estimate_goes_without_it(tmp_path: Path) -> None:
    tiny = ["gpt2", *("--set", "size=tiny"), *("--set", "sequence=32"), "--device", "h200"]
    ops = []
    for number, options in enumerate(([], ["--no-checkpointing"])):
        file = tmp_path / f"{number}.profile.json"
        words = ["profile", *tiny, "--set", "checkpointing=yes", *options, "-o", str(file)]
        assert main(words) == 0
        ops.append(len(read_profile(file).ops))
    assert ops[0] > ops[1]
