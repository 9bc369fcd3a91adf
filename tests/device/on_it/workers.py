"""Workers that train one model, each on a device of its own."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from planner.plan.plan import Without
from profiles.hooks.data_parallel import group_of_one
from runtime.cli import main
from runtime.proof.workers import prove_with_workers
from tests.device import layers
from tests.device.accelerator import device
from tests.device.build import NAME
from tests.device.races import races
from tests.device.trainings import LINK, plan_within
from tests.device.trial_device import trial_device
from tests.runtime.training.test_agreement import check_workers
from tests.support.training.fixed_times import give_fixed_times

STEP = f"{layers.__file__}:plain_of_any_seed"
HOW = ("--device", NAME, "--data-parallel", "--link", "pcie3-x16")
TORCH_FINDS_IT = f"[torch.backends]\n{NAME} = tests.device.accelerator:accelerator\n"


def have_workers_find_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start from now on know the device as they do any that has been installed."""
    installed = folder / f"{NAME}-1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text(TORCH_FINDS_IT)
    monkeypatch.syspath_prepend(folder)


def test_two_workers_prove_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plain.profile.json.gz"
    assert main(["profile", STEP, *HOW, "-o", str(path)]) == 0
    plan = plan_within(give_fixed_times(path), 0.6, 1.0, Without.RECOMPUTE)
    have_workers_find_it(tmp_path, monkeypatch)
    reports = prove_with_workers(plan, count=2, steps=4, timed_steps=1)
    assert len({report.losses for report in reports}) == 2, "each has batches of its own"
    for report in reports:
        assert report.passed, report
        assert report.peak_with_bytes < report.peak_without_bytes
        assert report.out_of_memory_without_plan
        assert report.d2h_bytes == plan.certificate.d2h_bytes > 0


def test_shards_are_trained_the_same_within_a_budget(tmp_path: Path) -> None:
    """`fully_shard` gathers and scatters on streams of its own, beside those of the swaps."""
    check_workers("fsdp2", NAME, tmp_path)


@pytest.mark.parametrize("waits", [True, False])
def test_a_sum_is_there_for_a_stream_that_waits_for_it(*, waits: bool) -> None:
    with group_of_one(NAME), trial_device().disturbed(1, LINK, 0.0) as log:
        numbers = torch.ones(64, device=device())
        work = distributed.all_reduce(numbers, async_op=True)
        assert work is not None
        if waits:
            work.wait()
        numbers.add_(1)
    assert any(entry.name == "all-reduce" for entry in log)
    assert (races(log) == []) is waits
