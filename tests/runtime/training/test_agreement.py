"""Data-parallel workers within a budget: one plan for all, from the second run on at once."""

import json
import subprocess
import sys
from pathlib import Path

from runtime.training.course import Way
from tests.support.commands import ROOT


def test_workers_replay_the_plan_of_the_first(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.worker_programs.within", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    first, second = (json.loads((tmp_path / f"worker-{n}.json").read_text()) for n in range(2))
    replayed = [run[Way.REPLAYED.value] for run in first]
    assert [run[Way.REPLAYED.value] for run in second] == replayed
    assert 0 < replayed[0] < replayed[1]
    assert first[1] == {Way.REPLAYED.value: replayed[1]}
    assert len(list((tmp_path / "plans").glob("*.plan.json"))) == 1
