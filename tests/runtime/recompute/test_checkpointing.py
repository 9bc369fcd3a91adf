"""A plan in place of the model's own checkpointing: the training is the checkpointed one."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch.utils.checkpoint import CheckpointFunction

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan, write_plan
from planner.solving import solve
from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError
from runtime.replay.executor import SwapExecutor
from runtime.replay.load import LoadedPlan
from runtime.replay.replay import Replay
from runtime.replay.statistics import FallbackWarning
from runtime.storage.residency import UnmovableError
from tests.runtime.recompute.trainings import (
    Build,
    alone,
    assert_alike,
    assert_as_planned,
    planned,
    profile_of,
)
from tests.support.checkpointed import BLOCKS, KINDS, Blocks, workload
from tests.support.planning.edited_files import content_of, plan_of_it, write_json
from tests.support.training.models import training

SHARE = 0.6
HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "autocast": {"autocast": True},
}


def gpt2() -> Workload:
    """As its users have it checkpointed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        bos_token_id=0, eos_token_id=0, vocab_size=64, n_positions=16, n_embd=32, n_layer=3,
        n_head=2, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    config.loss_type = "ForCausalLM"
    model = GPT2LMHeadModel(config).train()
    model.gradient_checkpointing_enable()

    def loss(generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(0, 64, (8, 16), generator=generator)
        return model(input_ids=tokens, labels=tokens).loss

    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False), loss)


BUILDS: dict[str, Build] = {
    **{
        f"{kind}, {how}": partial(workload, make, **HOW[how])
        for kind, make in KINDS.items()
        for how in HOW
    },
    "gpt2": gpt2,
}


@cache
def plan_for(build: Build, share: float = SHARE) -> Plan:
    """A plan for the step without checkpointing, within a share of what that needs."""
    profile = profile_of(build, checkpointing=False)
    return solve(profile, budget_bytes=int(share * profile.peak_bytes), time_limit_s=5)


# The name that most users have it by.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", BUILDS)
def test_a_training_is_the_checkpointed_one_within_the_budget(name: str, watched: bool) -> None:
    build = BUILDS[name]
    plan = plan_for(build)
    assert plan.without_checkpointing
    assert plan.swaps or plan.rebuilds
    assert plan.certificate.peak_without_bytes > profile_of(build).peak_bytes
    found = planned(build, plan, watched=watched)
    assert_alike(alone(build), found)
    assert_as_planned(plan, found)
    peaks = [step.peak_bytes for step in found.steps if step.peak_bytes]
    assert peaks
    assert max(peaks) <= plan.budget_bytes
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction


def attached(plan: Plan, it: Workload) -> Replay:
    return LoadedPlan(plan).attach(it.model, it.optimizer)


def blocks_run(it: Workload, step: Callable[[], object]) -> int:
    """How often a step runs blocks."""
    assert isinstance(it.model, Blocks)
    before = it.model.runs
    step()
    return it.model.runs - before


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_steps_of_the_replay_go_without(kind: str) -> None:
    build = BUILDS[f"{kind}, plain"]
    plan = plan_for(build)
    it = build()

    def replayed() -> None:
        with replay.step():
            it.step()

    with attached(plan, it) as replay:
        assert [blocks_run(it, replayed) for _ in range(3)] == [BLOCKS] * 3
        assert blocks_run(it, it.step) == 2 * BLOCKS
        assert blocks_run(it, replayed) == BLOCKS
    assert blocks_run(it, it.step) == 2 * BLOCKS
    assert [step.fallback for step in replay.steps] == [None] * 4


def test_the_rest_of_a_step_that_falls_back_checkpoints_again() -> None:
    """It may need no more memory than the training does that has no plan."""
    build = BUILDS["not reentrant, plain"]
    plan = plan_for(build)
    it = build()

    def replayed(*, half: bool) -> None:
        with replay.step():
            if half:
                assert isinstance(it.model, Blocks)
                it.model.blocks[1].register_forward_hook(falls_back)
            it.step()

    def falls_back(*_: object) -> None:
        it.optimizer.load_state_dict(it.optimizer.state_dict())

    with attached(plan, it) as replay:
        assert blocks_run(it, lambda: replayed(half=False)) == BLOCKS
        with pytest.warns(FallbackWarning, match="a state_dict was read"):
            assert blocks_run(it, lambda: replayed(half=True)) == BLOCKS + (BLOCKS - 2)
        assert [step.fallback is None for step in replay.steps] == [True, False]


def test_a_step_that_falls_back_as_it_begins_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    build = BUILDS["not reentrant, plain"]
    plan, it = plan_for(build), build()

    def replayed() -> None:
        with replay.step():
            it.step()

    def is_not_there(_: SwapExecutor) -> None:
        raise UnmovableError("a weight is not there")

    with attached(plan, it) as replay:
        assert blocks_run(it, replayed) == BLOCKS
        monkeypatch.setattr(SwapExecutor, "enter", is_not_there)
        with pytest.warns(FallbackWarning, match="a weight is not there"):
            assert blocks_run(it, replayed) == 2 * BLOCKS


@pytest.mark.parametrize("ending", [LookupError, KeyboardInterrupt])
def test_a_step_that_raises_leaves_nothing_replaced(ending: type[BaseException]) -> None:
    build = BUILDS["reentrant, plain"]
    plan, it = plan_for(build), build()

    def fails() -> None:
        with replay.step():
            assert torch.utils.checkpoint.CheckpointFunction is not CheckpointFunction
            raise ending

    with attached(plan, it) as replay:
        with pytest.raises(ending):
            fails()
        assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction
        with replay.step():
            it.step()
    assert replay.steps[-1].fallback is None


def test_a_replay_closed_inside_its_step_leaves_nothing_replaced() -> None:
    build = BUILDS["reentrant, plain"]
    plan, it = plan_for(build), build()
    replay = attached(plan, it)
    running = replay.step()
    running.__enter__()
    assert torch.utils.checkpoint.CheckpointFunction is not CheckpointFunction
    replay.close()
    assert torch.utils.checkpoint.CheckpointFunction is CheckpointFunction


def test_a_torch_that_cannot_is_refused_when_the_plan_is_attached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = BUILDS["reentrant, plain"]
    plan, it = plan_for(build), build()
    monkeypatch.delattr(torch.utils.checkpoint, "CheckpointFunction")
    with pytest.raises(WorkloadError, match="cannot be switched off"):
        attached(plan, it)


def test_a_plan_file_says_it_and_an_older_one_keeps_checkpointing(tmp_path: Path) -> None:
    path = tmp_path / "x.plan.json"
    plan = plan_of_it()
    without = plan.model_copy(update={"without_checkpointing": True})
    write_plan(without, path)
    assert read_plan(path) == without
    older = content_of(plan)
    del older["without_checkpointing"]
    write_json(older, path)
    assert read_plan(path) == plan
