"""Workers of one model within a budget: bit-equal, and in a second run planned from the start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from profiles.schema.profile import CPU
from runtime.training.course import Way
from tests.support.commands import ROOT


@pytest.mark.parametrize("how", ["ddp", "ddp, no_sync", "fsdp2"])
def test_workers_train_the_same_within_a_budget(how: str, tmp_path: Path) -> None:
    """In DistributedDataParallel all replay what the first has had planned; what FSDP owns stays
    where it is, and each worker has its own plan of the rest."""
    check_workers(how, CPU, tmp_path)


def check_workers(how: str, kind: str, tmp_path: Path) -> None:
    """Has two workers train on devices of a kind; the program compares what they trained."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.worker_programs.within", str(tmp_path), how, kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    seen = [json.loads((tmp_path / f"worker-{rank}.json").read_text()) for rank in range(2)]
    for first, second in seen:
        assert second == {Way.REPLAYED.value: sum(first.values())}
        assert first[Way.REPLAYED.value] > 0
    plans = [len(list((tmp_path / f"plans-{rank}").glob("*.plan.json"))) for rank in range(2)]
    assert plans == ([1, 1] if how == "fsdp2" else [1, 0])
