"""Several optimizers, followed as one: what they answer, and what is left as it was."""

import pytest
import torch
from torch import nn

from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.several_optimizers import SeveralOptimizers, optimizer_words
from profiles.hooks.workload import Training, bare_optimizer
from profiles.schema.errors import WorkloadError
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.steps import STEPS


def model_and_two() -> tuple[nn.Sequential, torch.optim.SGD, torch.optim.Adam]:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    return model, first, torch.optim.Adam(model[1].parameters())


def test_one_in_a_list_is_that_one() -> None:
    _, first, _ = model_and_two()
    assert bare_optimizer([first]) is first
    assert bare_optimizer({"a": first, "b": first}) is first


def test_states_and_groups_are_those_of_all_as_they_are_now() -> None:
    model, first, second = model_and_two()
    both = SeveralOptimizers((first, second))
    states, groups = both.state, both.param_groups
    assert (len(states), list(states), len(groups)) == (0, [], 2)
    model(torch.ones(1, 2)).sum().backward()
    first.step()
    assert len(states) == 2
    second.step()
    assert [states[p] for p in model.parameters()] == [
        *first.state.values(),
        *second.state.values(),
    ]
    # What asks must not make: an optimizer keeps its states in a `defaultdict`.
    assert both.state.get(nn.Parameter(torch.ones(1)), {}) == {}
    assert (len(first.state), len(second.state)) == (2, 2)
    first.load_state_dict(first.state_dict())
    weight = next(model.parameters())
    assert both.state[weight] is first.state[weight]


def test_a_parameter_that_two_train_is_refused() -> None:
    model, first, _ = model_and_two()
    with pytest.raises(WorkloadError, match="Two of the optimizers train one parameter"):
        bare_optimizer([first, torch.optim.SGD(model.parameters())])


def test_an_optimizer_of_another_model_is_named() -> None:
    model, first, second = model_and_two()
    with pytest.raises(WorkloadError, match="None of optimizer 1, Adam,'s 2 parameters"):
        Training(model=model[0], optimizer=bare_optimizer([first, second]))


def test_they_have_no_step_of_their_own() -> None:
    _, first, second = model_and_two()
    with pytest.raises(TypeError, match="call step\\(\\) of each"):
        SeveralOptimizers((first, second)).step()


def test_a_plan_names_them_all() -> None:
    model, first, second = model_and_two()
    assert optimizer_words(first) == "SGD"
    assert optimizer_words(bare_optimizer([first, second])) == "SGD, Adam"
    each = [torch.optim.SGD([parameter]) for parameter in model.parameters()]
    assert optimizer_words(bare_optimizer(each)) == "SGD x 4"


class Anchors:
    """Notes every anchor."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        self.keys.append(key)


def test_each_is_an_anchor_and_reaches_its_own_parameters() -> None:
    model, first, second = model_and_two()
    both, seen = bare_optimizer([first, second]), Anchors()
    hooks = AnchorHooks(model, both, seen)
    with hooks.step():
        model(torch.ones(1, 2)).sum().backward()
        second.step()
        first.step()
    hooks.close()
    begin = seen.keys.index("optimizer:pre")
    assert seen.keys[begin:] == [
        *("optimizer:pre", "update:1.weight", "update:1.bias", "optimizer:post"),
        *("optimizer:pre#1", "update:0.weight", "update:0.bias", "optimizer:post#1"),
        "end",
    ]
    assert not first._optimizer_step_pre_hooks
    assert not second._optimizer_step_post_hooks


def test_updates_in_backward_come_as_soon_as_a_gradient_is_there() -> None:
    profile = record_at_fixed_times(STEPS["updated in backward"]())
    anchors = [slot.anchor for slot in profile.slots]
    first, last = anchors.index("optimizer:pre"), anchors.index("grad:0.weight")
    assert first < last
    assert sum(anchor.startswith("update:") for anchor in anchors) == 6
    assert {storage.name for storage in profile.storages} >= {"state:0.weight.exp_avg"}
