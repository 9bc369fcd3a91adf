"""What the GPU check tries first, in its smallest form, on the device."""

import json
from pathlib import Path

from tests.device.trial_device import trial_device
from tests.gpu.bench_device import BenchAccelerator
from tests.gpu.results import Results
from tests.gpu.small_trainings import try_small_trainings


def test_they_are_tried_and_written(tmp_path: Path) -> None:
    results = Results(BenchAccelerator(trial_device().device), tmp_path)
    assert try_small_trainings(results, names=(), random_steps=1)
    [row] = json.loads((results.folder / "small.json").read_text())["records"]
    assert (row["name"], row["faults"]) == ("random step 0", [])
    assert "| random step 0 |" in (results.folder / "small.md").read_text()
