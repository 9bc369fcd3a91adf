"""Everything that has a recipe is dropped and rebuilt: the training is the same, bit by bit."""

from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile
from tests.runtime.recompute.trainings import (
    Build,
    Trained,
    alone,
    assert_alike,
    assert_as_planned,
    planned,
    profile_of,
)
from tests.support.planning.recipes import Step, with_rebuilds
from tests.support.training.models import BUILDERS, training
from tests.support.training.steps import STEPS


def gpt2_with_dropout(*, casts: bool = False) -> Workload:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        bos_token_id=0, eos_token_id=0, vocab_size=64, n_positions=16, n_embd=32, n_layer=2,
        n_head=2, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    config.loss_type = "ForCausalLM"
    model = GPT2LMHeadModel(config).train()

    def loss(generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(0, 64, (2, 16), generator=generator)
        with torch.autocast(generator.device.type, torch.bfloat16, enabled=casts):
            return model(input_ids=tokens, labels=tokens).loss

    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss)


def llama() -> Workload:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config.loss_type = "ForCausalLM"
    model = LlamaForCausalLM(config).train()

    def loss(generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(0, 64, (2, 16), generator=generator)
        return model(input_ids=tokens, labels=tokens).loss

    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss)


def basic_unet() -> Workload:
    from monai.networks.nets import BasicUNet

    model = BasicUNet(
        spatial_dims=3, in_channels=1, out_channels=2, features=(4, 4, 8, 8, 8, 4), dropout=0.1
    )

    def loss(generator: torch.Generator) -> torch.Tensor:
        image = torch.rand(1, 1, 32, 32, 32, generator=generator)
        return functional.cross_entropy(model(image), (image[:, 0] > 0.5).long())

    return training(model, torch.optim.Adam(model.parameters(), lr=1e-3), loss)


def changing_coefficient() -> Workload:
    """The weight of one part of the loss, and a temperature, are other numbers in each step."""
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    steps = iter(range(100))

    def loss(generator: torch.Generator) -> torch.Tensor:
        weight = 0.1 * next(steps)
        rows = torch.rand(16, 32, generator=generator)
        hidden = torch.tanh(model(rows) * (1.0 + weight) + weight)
        return functional.mse_loss(hidden, rows) + weight * (hidden.exp() * weight).square().mean()

    return training(model, torch.optim.Adam(model.parameters(), lr=1e-3), loss)


BUILDS: dict[str, Build] = {
    **BUILDERS,
    **{name: build for name, build in STEPS.items() if "one by one" not in name},
    "loss with other coefficients": changing_coefficient,
    "gpt2 in bfloat16": partial(gpt2_with_dropout, casts=True),
    "gpt2 with dropout": gpt2_with_dropout,
    "llama": llama,
    "BasicUNet with dropout": basic_unet,
}
PLAIN = [name for name in BUILDS if ", f" not in name and name != "SparseAdam"]
"""Without those that differ by a fused or grouped update alone, and one that saves nothing."""
WITHOUT_SWAPS = [*BUILDERS, "normalized, dropout", "scaler", "reentrant checkpoint"]
UNWATCHED = ("normalized, dropout", "scaler", "closure", "gradient penalty", "recurrent", "resnet")
KEEPS_MORE = ("batches in a list", "LBFGS", "batches from a generator", "unseen batches")
"""Steps that find more or less memory when they begin, whatever the plan."""


ON_THE_CPU = {
    "recurrent": "accelerators run its cells in one piece, which the one of the tests cannot",
    "two recurrent layers": "likewise",
    "LBFGS": "each step runs more ops than the one before, and accelerators time op by op",
}


def marks_of(name: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.cpu_only,) if name in ON_THE_CPU else ()


@cache
def profiled(name: str) -> Profile:
    return profile_of(BUILDS[name])


@cache
def untouched(name: str, **how: int) -> Trained:
    return alone(BUILDS[name], **how)


@cache
def everything_rebuilt(name: str, *, swapping: bool = True) -> Plan:
    return with_rebuilds(profiled(name), swapping=swapping)


@pytest.mark.parametrize(
    ("name", "swapping"),
    [
        *(pytest.param(name, True, marks=marks_of(name)) for name in PLAIN),
        *((name, False) for name in WITHOUT_SWAPS),
    ],
)
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_training_that_rebuilds_everything_is_the_same(name: str, swapping: bool) -> None:
    plan = everything_rebuilt(name, swapping=swapping)
    if name in KEEPS_MORE:
        plan = plan.model_copy(update={"budget_bytes": 2 * plan.budget_bytes})
    trained = planned(BUILDS[name], plan)
    assert_alike(trained, untouched(name))
    assert_as_planned(plan, trained, memory=name not in KEEPS_MORE)


@pytest.mark.parametrize("swapping", [True, False])
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in UNWATCHED])
def test_a_training_that_is_not_watched_is_the_same(name: str, swapping: bool) -> None:
    plan = everything_rebuilt(name, swapping=swapping)
    trained = planned(BUILDS[name], plan, watched=False)
    assert_alike(trained, untouched(name))
    assert_as_planned(plan, trained)
    assert trained.steps[-1].peak_bytes is None


@pytest.mark.cpu_only
def test_most_steps_have_something_to_rebuild() -> None:
    assert [name for name in PLAIN if not everything_rebuilt(name).rebuilds] == []


@pytest.mark.parametrize("name", ["normalized, dropout", "gradient penalty", "resnet"])
@settings(max_examples=12)
@given(data=st.data())
def test_a_training_that_rebuilds_something_is_the_same(name: str, data: st.DataObject) -> None:
    step = Step(profiled(name))
    found = {idle.storage: idle for idle in data.draw(st.lists(st.sampled_from(step.idle)))}
    plan = with_rebuilds(
        profiled(name),
        found.values(),
        swapping=data.draw(st.booleans()),
        together=data.draw(st.booleans()),
        longest=data.draw(st.sampled_from([1, 3, 100])),
    )
    trained = planned(BUILDS[name], plan, steps=3)
    assert_alike(trained, untouched(name, steps=3))
    assert_as_planned(plan, trained)


SLOW_LINK = nominal_link("slow", 100.0, 100.0, latency_us=0.0)
"""On which running ops again is worth it."""


@pytest.mark.parametrize("without", [Without.NOTHING, Without.SWAP])
@pytest.mark.parametrize("name", ["unet3d", "resnet"])
def test_a_plan_that_was_solved_for_a_budget_is_kept(name: str, without: Without) -> None:
    profile = profiled(name)
    plan = solve(
        profile,
        budget_bytes=int(0.75 * profile.peak_bytes),
        link=SLOW_LINK,
        without=without,
        # Whichever plan is found by then: what is asserted holds of each.
        time_limit_s=1.0,
    )
    assert plan.rebuilds or without is not Without.SWAP
    trained = planned(BUILDS[name], plan)
    assert_alike(trained, untouched(name))
    assert_as_planned(plan, trained)
