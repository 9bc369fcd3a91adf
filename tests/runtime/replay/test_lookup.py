"""Plans edited by hand, whose names are no tensors or one tensor twice: refused, or left alone."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from runtime.replay.load import LoadedPlan
from runtime.replay.statistics import FallbackWarning
from tests.support.planning.hardest_plans import everything_away
from tests.support.planning.plan_edits import agreeing
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import training
from tests.support.training.recorded import assert_all_resident, assert_same, snapshot

STEPS = 3


class TwoNames(nn.Module):
    """A buffer that is a view of a parameter: two names of one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8, 8))
        self.register_buffer("seen", self.first.weight.detach(), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs) @ self.mean.T
        return torch.as_tensor(self.second(hidden + inputs))


def workload() -> Workload:
    torch.manual_seed(0)
    model = TwoNames()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss(generator: torch.Generator) -> torch.Tensor:
        inputs = torch.randn(8, 8, generator=generator)
        return torch.as_tensor((model(inputs) - inputs).square().mean())

    return training(model, optimizer, loss)


@pytest.fixture(scope="module")
def sound() -> Plan:
    return everything_away(record_at_fixed_times(workload()))


def edited(plan: Plan, edit: Callable[[Any], None]) -> Plan:
    content = json.loads(plan.model_dump_json())
    edit(content)
    found = agreeing(content, keep_offsets=False)
    assert found is not None, "a reader refuses it"
    return found


def rename(old: str, new: str, kind: str) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        storage = next(s for s in content["storages"] if s["name"] == old)
        storage["name"], storage["kind"] = new, kind

    return edit


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("buffer:training", "buffer"),
        ("buffer:first", "buffer"),
        ("buffer:first.weight", "buffer"),
        ("buffer:first.in_features", "buffer"),
        ("buffer:nowhere.mean", "buffer"),
        ("parameter:mean", "parameter"),
        ("parameter:third.weight", "parameter"),
        ("grad:mean", "gradient"),
        ("state:mean.exp_avg", "optimizer_state"),
        ("state:first.exp_avg", "optimizer_state"),
    ],
)
def test_a_name_that_the_model_does_not_hold(sound: Plan, name: str, kind: str) -> None:
    plan = edited(sound, rename("parameter:second.weight", name, kind))
    trained = workload()
    with pytest.raises(PlanMismatchError, match=f"The plan moves '{name}', which this model"):
        LoadedPlan(plan).attach(trained.model, trained.optimizer)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        # One storage under two names, whose swaps overlap.
        ("buffer:mean", "buffer:seen", "buffer"),
        ("parameter:second.weight", "buffer:seen", "buffer"),
        # A state that is a number, and one that is never made.
        ("state:first.weight.exp_avg", "state:first.bias.step", "optimizer_state"),
        ("state:first.weight.exp_avg", "state:first.weight.never", "optimizer_state"),
        ("state:first.weight.exp_avg", "grad:second.weight", "gradient"),
    ],
)
def test_a_name_of_something_else(sound: Plan, old: str, new: str, kind: str) -> None:
    def edit(content: Any) -> None:
        rename(new, "parameter:elsewhere", "parameter")(content) if any(
            s["name"] == new for s in content["storages"]
        ) else None
        names = {storage["id"]: storage["name"] for storage in content["storages"]}
        content["swaps"] = [
            swap for swap in content["swaps"] if names[swap["storage"]] != "parameter:elsewhere"
        ]
        rename(old, new, kind)(content)

    plan = edited(sound, edit)
    trained, untouched = workload(), workload()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        with LoadedPlan(plan).attach(trained.model, trained.optimizer) as replay:
            for _ in range(STEPS):
                with replay.step():
                    loss = trained.step()
                assert torch.equal(loss, untouched.step())
    assert_all_resident(trained)
    assert_same(snapshot(trained), snapshot(untouched))
