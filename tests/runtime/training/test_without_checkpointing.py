"""A loop whose model is checkpointed, within a budget by plans that take the place of that."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch.utils.checkpoint import CheckpointFunction, checkpoint, checkpoint_sequential

import runtime
from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError
from runtime.training.course import Way
from runtime.training.planned_training import PlannedTraining
from tests.support.checkpointed import BLOCKS, KINDS, ROWS, WIDTH, Blocks, plainly, workload
from tests.support.loops.loop import TIME_LIMIT_S
from tests.support.training.models import seeded
from tests.support.training.recorded import assert_same, snapshot

STEPS = 16
KIB = 1024


@pytest.fixture(autouse=True)
def nothing_falls_back_and_nothing_stays_replaced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", runtime.FallbackWarning)
        yield
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction


def within(it: Workload, plans: Path, budget: str | int, *, checkpointing: bool) -> PlannedTraining:
    return runtime.within(
        *(it.model, it.optimizer),
        budget=budget,
        plans=plans,
        time_limit_s=TIME_LIMIT_S,
        checkpointing=checkpointing,
    )


def train(
    it: Workload, plans: Path, budget: str | int = "80%", *, checkpointing: bool = False
) -> tuple[PlannedTraining, list[int]]:
    """Trains within a budget; and how often each step has run blocks."""
    runs = []
    assert isinstance(it.model, Blocks)
    with within(it, plans, budget, checkpointing=checkpointing) as memory:
        for _ in range(STEPS):
            memory.wait_for_plans()
            before = it.model.runs
            with memory.step():
                it.step()
            runs.append(it.model.runs - before)
    return memory, runs


def trained_alone(it: Workload) -> dict[str, torch.Tensor]:
    for _ in range(STEPS):
        it.step()
    return snapshot(it)


@pytest.mark.parametrize("budget", ["80%", 1100 * KIB])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_is_the_same_and_goes_without_while_a_plan_is_followed(
    kind: str, budget: str | int, tmp_path: Path
) -> None:
    it, alone = (workload(KINDS[kind], dropout=0.5) for _ in range(2))
    torch.manual_seed(1)
    memory, runs = train(it, tmp_path, budget)
    torch.manual_seed(1)
    assert_same(trained_alone(alone), snapshot(it))
    assert memory.tally[Way.REPLAYED] > 0
    assert set(runs) == {BLOCKS}, "of recorded and of replayed steps"
    assert memory.tally[Way.REPLAYED] + memory.tally[Way.RECORDED] == STEPS


def test_a_step_that_follows_no_plan_checkpoints_as_before(tmp_path: Path) -> None:
    it = workload(KINDS["reentrant"])
    memory, runs = train(it, tmp_path, "1GiB")
    assert memory.tally[Way.RESIDENT] > 0
    recorded = memory.tally[Way.RECORDED]
    assert runs == [BLOCKS] * recorded + [2 * BLOCKS] * (STEPS - recorded)


@pytest.mark.cpu_only  # what its three trainings hold would count in each other's budgets
def test_kept_it_is_planned_around_and_plans_of_the_two_are_not_mixed(tmp_path: Path) -> None:
    kept, runs = train(workload(KINDS["reentrant"]), tmp_path, checkpointing=True)
    assert kept.tally[Way.REPLAYED] > 0
    assert set(runs) == {2 * BLOCKS}
    without, runs = train(workload(KINDS["reentrant"]), tmp_path)
    assert without.tally[Way.RECORDED] > 0
    assert set(runs) == {BLOCKS}
    assert len(list(tmp_path.glob("*.plan.json"))) == 2
    for checkpointing in (True, False):
        again, _ = train(workload(KINDS["reentrant"]), tmp_path, checkpointing=checkpointing)
        assert again.tally[Way.REPLAYED] == STEPS


def by_hand(model: Blocks, rows: torch.Tensor) -> torch.Tensor:
    for block in model.blocks:
        rows = checkpoint(block, rows, use_reentrant=True)
    return rows


def in_segments(model: Blocks, rows: torch.Tensor) -> torch.Tensor:
    return checkpoint_sequential(model.blocks, BLOCKS, rows, use_reentrant=False)


@pytest.mark.parametrize("forward", [by_hand, in_segments])
def test_a_checkpoint_before_the_first_module_is_off_too(
    forward: Callable[[Blocks, torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    """A step begins when the first module is called, and that call is inside of one."""
    found = []
    for is_planned in (False, True):
        it = workload(lambda dropout: Blocks(plainly, dropout))
        model = it.model
        assert isinstance(model, Blocks)
        batch = torch.randn(ROWS, WIDTH, generator=seeded(0))
        memory = within(it, tmp_path, "80%", checkpointing=False) if is_planned else None
        for _ in range(STEPS):
            if memory is not None:
                memory.wait_for_plans()
            before = model.runs
            with nullcontext() if memory is None else memory.step():
                it.optimizer.zero_grad()
                loss = forward(model, batch.clone().requires_grad_()).square().mean()
                loss.backward()
                it.optimizer.step()
            assert memory is None or model.runs - before == BLOCKS
        if memory is not None:
            assert memory.tally[Way.REPLAYED] > 0
            memory.close()
        found.append(snapshot(it))
    assert_same(*found)


@pytest.mark.parametrize("ending", ["raised", "closed", "no module"])
def test_a_step_that_ends_before_it_begins_leaves_nothing_replaced(
    ending: str, tmp_path: Path
) -> None:
    it = workload(KINDS["reentrant"])
    memory = within(it, tmp_path, "80%", checkpointing=False)
    memory.begin()
    assert torch.utils.checkpoint.CheckpointFunction is not CheckpointFunction
    if ending == "raised":
        # Its framework has seen the exception; the next step ends this one.
        memory.begin()
    if ending != "closed":
        memory.end()
        assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction
    memory.close()
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction


def test_a_torch_that_cannot_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = workload(KINDS["reentrant"])
    with monkeypatch.context() as patch:
        patch.delattr(torch.utils.checkpoint, "CheckpointFunction")
        with pytest.raises(WorkloadError, match="cannot be switched off"):
            within(it, tmp_path, "80%", checkpointing=False)
