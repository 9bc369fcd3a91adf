"""`plan profile --device NAME` for a device that is not there."""

import warnings
from pathlib import Path

import pytest

from profiles.schema.profile import Provenance
from profiles.schema.profile_file import read_profile
from runtime.cli import main

READS_ITS_LOSS = """
import torch
def train():
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = torch.ones(2, 4)
    def step():
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        print(loss.detach().item())
        loss.backward()
        optimizer.step()
        return loss
    return model, optimizer, step
"""
TINY = ["profile", "gpt2", "--set", "size=tiny", "--set", "sequence=32"]


def test_a_step_is_estimated_for_an_accelerator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpt2.profile.json"
    assert main([*TINY, "--device", "v100-16gb", "-o", str(file)]) == 0
    profile = read_profile(file)
    assert profile.times is Provenance.ESTIMATED
    assert profile.device.name == "Tesla V100-SXM2-16GB"
    assert profile.device.memory_bytes == 16 << 30
    assert profile.link.name == "pcie3-x16"
    assert "estimated" in capsys.readouterr().out


def test_another_link_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "gpt2.profile.json"
    options = ["--device", "v100-16gb", "--link", "nvlink2-ac922-4gpu"]
    assert main([*TINY, *options, "-o", str(file)]) == 0
    assert read_profile(file).link.name == "nvlink2-ac922-4gpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "h20"], "plan: there is no device 'h20' to estimate for. Did you mean h200"),
        (
            ["--device", "h200", "--data-parallel"],
            "plan: --data-parallel is for a step that is run",
        ),
        (
            ["--device", "h200", "--beyond-capacity", "--limit", "1GiB"],
            "plan: --beyond-capacity is for a step that is run",
        ),
        (["--device", "h200", "--link", "measured"], "plan: there is no link 'measured'"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*TINY, *options, "-o", str(tmp_path / "gpt2.profile.json")]) == 2
    found = capsys.readouterr().err
    assert found.startswith(message)
    assert found.count("\n") == 1


def test_what_an_estimate_assumes_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "train.py").write_text(READS_ITS_LOSS)
    words = ["profile", f"{tmp_path}/train.py:train", "--device", "h200"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*words, "-o", str(tmp_path / "p.json")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "takes it to be" in line]
    assert lines == [
        "plan: train.py, line 10: the step asks for the value of a tensor; the estimate takes it "
        "to be 0.0."
    ]
    assert not recwarn.list
