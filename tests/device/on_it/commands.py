"""The commands on the device, as on any accelerator that torch finds."""

import json
from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan
from planner.report.perfetto import Lane, Process
from runtime.cli import main
from tests.device.build import NAME

GPT2 = ("gpt2", "--set", "size=tiny", "--set", "sequence=64", "--device", NAME)
QUICK = ("--time-limit", "1")


def planned(folder: Path, *options: str, budget: str) -> Path:
    profile, plan = folder / "gpt2.profile.json.gz", folder / "gpt2.plan.json"
    assert main(["profile", *GPT2, *options, "-o", str(profile)]) == 0
    assert main(["solve", str(profile), "--budget", budget, *QUICK, "-o", str(plan)]) == 0
    return plan


def test_a_step_is_recorded_planned_proved_and_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(tmp_path, "--link", "pcie3-x16", budget="60%")
    trace, slots = tmp_path / "gpt2.trace.json", tmp_path / "gpt2.slots.csv"
    measured = ("--trace", str(trace), "--slots", str(slots))
    assert main(["run", str(plan), "--steps", "4", *measured]) == 0
    assert "Proof: passed" in capsys.readouterr().out
    events = json.loads(trace.read_bytes())["traceEvents"]
    rows = {e["tid"] for e in events if e["pid"] == Process.MEASURED and e["ph"] == "X"}
    assert rows >= {Lane.COMPUTE, Lane.D2H, Lane.H2D}
    assert len(slots.read_text().splitlines()) == 1 + len(read_plan(plan).slots)


def test_one_that_does_not_fit_is_recorded_beyond_capacity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = ("--link", "pcie3-x16", "--beyond-capacity", "--limit", "4MiB")
    plan = planned(tmp_path, *beyond, budget="3MiB")
    assert main(["run", str(plan), "--steps", "3"]) == 0
    assert "Proof: passed" in capsys.readouterr().out
