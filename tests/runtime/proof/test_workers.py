"""`plan run --workers`: what it prints, and how it ends when a worker fails."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from planner.plan.plan_file import read_plan, write_plan
from planner.solving import solve
from profiles.hooks.data_parallel import data_parallel, group_of_one
from profiles.schema.profile import WorkloadSource
from profiles.workloads.build import build
from runtime.cli import main
from runtime.proof import workers
from tests.support.training.fixed_times import record_at_fixed_times

pytestmark = pytest.mark.cpu_only
SECONDS = 900
"""A proof takes some seconds on an idle machine."""

TRAINING = """
import os
import torch
from torch import distributed

def train(fault="none"):
    layers = []
    for _ in range(4):
        layers += [torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Dropout(0.1)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = torch.randn(1024, 128)
    counter = f"BUILDS_{os.getpid()}"
    builds = os.environ[counter] = os.environ.get(counter, "") + "|"
    steps = 0
    def step():
        nonlocal steps
        steps += 1
        optimizer.zero_grad()
        loss = (model(inputs) - inputs).square().mean()
        # The third that a worker builds is trained with the plan.
        if builds == "|||" and steps == 2 and fault != "none" and distributed.get_rank() == 1:
            if fault == "killed":
                os.kill(os.getpid(), 9)
            if fault == "raised":
                raise ValueError("the batch is\\nspoiled")
        loss.backward()
        optimizer.step()
        return loss.detach()
    return model, optimizer, step
"""


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A test that waits for ever is interrupted; the command then ends its workers."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _hear_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker that is going to fail is heard, however long the machine takes over it."""
    monkeypatch.setattr(workers, "OTHERS_SECONDS", SECONDS)


@pytest.fixture(scope="module", name="plan_file")
def _plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "training.py").write_text(TRAINING)
    source = WorkloadSource(reference=f"{folder / 'training.py'}:train", settings=(), seed=0)
    with group_of_one():
        workload = data_parallel(build(source))
        profile = record_at_fixed_times(workload, source=source)
    peak_bytes = solve(profile, budget_bytes=1 << 40).certificate.peak_without_bytes
    path = folder / "training.plan.json"
    write_plan(solve(profile, budget_bytes=peak_bytes * 7 // 10), path)
    return path


def with_fault(plan_file: Path, fault: str) -> Path:
    plan = read_plan(plan_file)
    source = plan.workload.model_copy(update={"settings": (("fault", fault),)})
    path = plan_file.with_name(f"{fault}.plan.json")
    write_plan(plan.model_copy(update={"workload": source}), path)
    return path


@pytest.mark.usefixtures("wide_tables")
def test_two_workers_prove_a_plan(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["run", str(plan_file), "--workers", "2", "--steps", "6"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    rows = [line.split("│") for line in printed.out.splitlines() if "out of memory" in line]
    table = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) > 3]
    assert [row[0] for row in table] == ["0", "1"]
    for row in table:
        assert row[2] == "bit-equal"
        assert row[3].endswith(" bit-equal")
        assert row[-1] == "0"
    assert table[0][1] != table[1][1], "each worker has batches of its own"
    assert printed.out.rstrip().endswith("Proof: passed")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("killed", "it was killed by SIGKILL"), ("raised", "ValueError: the batch is spoiled")],
)
def test_a_worker_that_fails_ends_the_others(
    plan_file: Path, fault: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(with_fault(plan_file, fault)), "--workers", "2"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("plan: Worker 1 of 2 failed: ")
    assert reason in told
    assert told.endswith(". The others have been ended.")


def test_a_plan_for_workers_is_refused_without_them(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(plan_file)]) == 2
    assert "is for 'plan run --workers'" in capsys.readouterr().err


def test_a_plan_for_one_process_is_refused_by_workers(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = read_plan(plan_file).workload
    profile = record_at_fixed_times(build(source), source=source)
    path = plan_file.with_name("alone.plan.json")
    write_plan(solve(profile, budget_bytes=1 << 40), path)
    assert main(["run", str(path), "--workers", "1"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "The plan is for the model without DistributedDataParallel" in told
    assert "'plan profile --data-parallel'" in told


def test_each_worker_needs_a_gpu_of_its_own(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_plan(plan_file)
    device = plan.device.model_copy(update={"kind": "cuda", "compute_threads": 0})
    path = plan_file.with_name("cuda.plan.json")
    write_plan(plan.model_copy(update={"device": device}), path)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: gpu)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert main(["run", str(path), "--workers", "2"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("plan: --workers 2 needs a GPU for each, this machine shows 1.")
