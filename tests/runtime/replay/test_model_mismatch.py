"""A plan attached to what it is not for: the first difference is named."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan, write_plan
from profiles.hooks.named_storages import describe_model
from profiles.schema.errors import PlanMismatchError, WorkloadError
from runtime.replay.load import LoadedPlan
from tests.support.planning.edited_files import PROFILE, content_of, refused, write_json
from tests.support.training.recorded import everything_away_plan

NAME = "twice_with_neighbour"


def plan_for(model: nn.Module, optimizer: torch.optim.Optimizer) -> Plan:
    """A plan that says it is for this model."""
    described = describe_model(model, optimizer)
    return everything_away_plan(NAME).model_copy(
        update={"model": described, "model_fingerprint": described.fingerprint()}
    )


def network(width: int = 4, *, bias: bool = True, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(4, width), nn.Linear(width, 4, bias=bias)]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(4)] if norm else []))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


def mismatch(model: nn.Module, optimizer: object) -> str:
    planned = network()
    plan = plan_for(planned, adam(planned))
    with pytest.raises(PlanMismatchError) as refused:
        LoadedPlan(plan).attach(model, optimizer)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_another_shape() -> None:
    model = network(5)
    assert "'0.weight' is 5x4 float32 here, planned 4x4 float32." in mismatch(model, adam(model))


def test_another_dtype() -> None:
    model = network()
    model[1].half()
    assert "'1.weight' is 4x4 float16 here, planned 4x4 float32." in mismatch(model, adam(model))


def test_a_tensor_that_is_missing_or_new() -> None:
    fewer, more = network(bias=False), network(norm=True)
    assert "'1.bias' is planned and not in this model." in mismatch(fewer, adam(fewer))
    assert "'2.weight' is in this model and not planned." in mismatch(more, adam(more))


def test_another_name() -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(4, 4))
    model.add_module("1", nn.Linear(4, 4))
    assert "'0.weight' is planned and not in this model, which has 'first.weight'." in mismatch(
        model, adam(model)
    )


def test_another_order() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Module()
    model.add_module("1", other)
    model.add_module("0", one)
    assert "tensor 0 of the model is '1.weight' here, planned '0.weight'." in mismatch(
        model, adam(model)
    )


def test_another_optimizer() -> None:
    model = network()
    sgd = torch.optim.SGD(model.parameters())
    assert "the optimizer is SGD here, planned AdamW." in mismatch(model, sgd)


def test_a_compiled_model() -> None:
    compiled = nn.Module()
    compiled.add_module("_orig_mod", network())
    assert "before torch.compile" in mismatch(compiled, adam(compiled))


def test_what_is_no_optimizer_or_no_model() -> None:
    model = network()
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    plan = plan_for(model, optimizer)
    for given, updated, word in (
        (model, [], "optimizer is a list"),
        (model, schedule, "ConstantLR"),
        ([model], optimizer, "model is a list"),
    ):
        with pytest.raises(WorkloadError, match=word):
            LoadedPlan(plan).attach(given, updated)  # type: ignore[arg-type]


def test_a_plan_of_an_older_file_does_not_know() -> None:
    model = network(5)
    plan = plan_for(network(), adam(network())).model_copy(update={"model": None})
    with pytest.raises(PlanMismatchError, match="too old to say which"):
        LoadedPlan(plan).attach(model, adam(model))


def test_a_recorded_plan_describes_its_model() -> None:
    plan = everything_away_plan(NAME)
    assert plan.model is not None
    assert plan.model.fingerprint() == plan.model_fingerprint


def test_a_description_that_was_edited(tmp_path: Path) -> None:
    planned = network()
    plan, path = plan_for(planned, adam(planned)), tmp_path / "x.plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    content = content_of(plan)
    content["model"]["tensors"][0]["shape"] = [5, 4]
    write_json(content, path)
    assert "model_fingerprint" in refused(read_plan, path)


def test_older_files_keep_their_fingerprint() -> None:
    """The digest of what a file holds does not count what it lacks."""
    lacks: dict[str, Any] = {"model": True, "ops": {"__all__": {"traits", "workspace_bytes"}}}
    lacks["without_checkpointing"] = True
    content = PROFILE.model_dump_json(exclude=lacks)
    assert PROFILE.fingerprint() == hashlib.sha256(content.encode()).hexdigest()
