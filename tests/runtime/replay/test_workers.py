"""Data-parallel workers under plans: real processes over gloo, each bounded in time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from planner.plan.plan import Plan
from planner.plan.plan_file import write_plan
from profiles.schema.profile import Profile
from tests.support.commands import ROOT
from tests.support.planning.hardest_plans import everything_away, periodic
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.recorded import everything_away_plan
from tests.worker_programs.bit_equal import SKIPPING
from tests.worker_programs.cases import recorded_alone

SECONDS = 900
"""A launch takes some seconds on an idle machine."""


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a command and whatever it starts, and ends all of it if it takes too long."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{command} hangs:\n{out}\n{err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def seen_in(folder: Path, *files: str) -> list[dict[str, Any]]:
    """What each worker wrote down."""
    return [json.loads((folder / file).read_text()) for file in files]


def test_training_of_workers_is_bit_equal(tmp_path: Path) -> None:
    names_by_count = {2: ["own_script", "unet3d", "accumulating"], 4: ["unet3d", "kept_gradients"]}
    train_and_compare(names_by_count, periodic, tmp_path)


def test_training_of_workers_that_rebuild_is_bit_equal(tmp_path: Path) -> None:
    train_and_compare(
        {2: ["unet3d", "accumulating"]}, partial(with_rebuilds, swapping=True), tmp_path
    )


def train_and_compare(
    names_by_count: dict[int, list[str]], plan_of: Callable[[Profile], Plan], tmp_path: Path
) -> None:
    plans = {
        name: plan_of(recorded_alone(name)) for names in names_by_count.values() for name in names
    }
    for name, plan in plans.items():
        write_plan(plan, tmp_path / f"{name}.plan.json")
    program = "tests.worker_programs.bit_equal"
    ended = run(program, str(tmp_path), json.dumps(names_by_count))
    assert ended.returncode == 0, ended.stderr
    for count, names in names_by_count.items():
        files = [f"worker-{rank}-of-{count}.json" for rank in range(count)]
        for name in names:
            check_bit_equal(plans[name], [seen[name] for seen in seen_in(tmp_path, *files)])


def check_bit_equal(plan: Plan, of_all: list[dict[str, Any]]) -> None:
    """The workers themselves have compared parameters, buffers and states bit by bit."""
    for one in of_all:
        assert one["losses_with_plan"] == one["losses"]
        assert one["fallbacks"] == [None] * len(one["losses"])
        assert one["shortcuts"] == [SKIPPING]
        assert one["moved_bytes"] == plan.certificate.d2h_bytes > 0
        assert one["peak_bytes"] == plan.certificate.peak_bytes == plan.budget_bytes
    assert len({one["parameters"] for one in of_all}) == 1, "workers train one model"
    assert len({tuple(one["losses"]) for one in of_all}) == len(of_all), "on their own batches"


@pytest.fixture(scope="module", name="together")
def _together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("together")
    profile = recorded_alone("own_script")
    plan = periodic(profile)
    write_plan(plan, folder / "own_script.plan.json")
    write_plan(everything_away(profile, min_size_bytes=100_000), folder / "other.plan.json")
    write_plan(everything_away_plan("unet3d"), folder / "unet3d.plan.json")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    ended = run(*torchrun, "-m", "tests.worker_programs.together", str(folder))
    seen = seen_in(folder, "together-0.json", "together-1.json")
    for worker in seen:
        worker["planned budget"] = plan.budget_bytes
        worker["torchrun"] = (ended.returncode, ended.stderr)
    return seen


def test_workers_with_different_plans_are_all_refused(together: list[dict[str, Any]]) -> None:
    first, second = (worker["another plan"] for worker in together)
    assert first == second
    assert first.startswith("Worker 1 of 2 has plan ")
    assert "worker 0 has plan" in first
    assert "\n" not in first


def test_one_worker_with_a_plan_for_another_model_stops_all(together: list[dict[str, Any]]) -> None:
    first, second = (worker["a plan for another model"] for worker in together)
    assert first == second
    assert first.startswith("Worker 0 of 2: The plan is for another model: ")


def test_all_workers_keep_the_smallest_budget(together: list[dict[str, Any]]) -> None:
    budget_bytes = together[0]["planned budget"]
    assert [worker["budget"] for worker in together] == [budget_bytes, budget_bytes - 1]


def test_an_odd_batch_on_one_worker_counts_on_all(together: list[dict[str, Any]]) -> None:
    other, odd = (worker["odd batch"] for worker in together)
    assert [reason is None for reason in odd["fallbacks"]] == [True, True, False, True, True]
    assert "bytes, planned" in odd["fallbacks"][2]
    assert other["fallbacks"] == [None, None, "worker 1 fell back to resident", None, None]
    assert other["count"] == odd["count"] == 1
    assert [len(worker["warnings"]) for worker in (other, odd)] == [1, 1]
    assert "step 2 fell back to resident on worker 1" in other["warnings"][0]
    assert other["steps"] == odd["steps"] == [0, 1, 2, 3, 4]


def test_training_goes_on_after_an_exception_on_one_worker(together: list[dict[str, Any]]) -> None:
    other, raised = (worker["raising"] for worker in together)
    assert raised == [None, "the step raised Refusal", None, None]
    assert other == [None, "worker 1 fell back to resident", None, None]


def test_a_worker_killed_inside_a_step_ends_the_launch(together: list[dict[str, Any]]) -> None:
    """It has ended, and in time, or `together` would have failed."""
    code, told = together[0]["torchrun"]
    assert code == 1
    assert "Signal 9 (SIGKILL)" in told
