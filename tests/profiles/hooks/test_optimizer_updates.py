"""Anchors inside `optimizer.step()`: one per parameter, and storages stream between them."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from planner.plan.device_memory import planned_bytes
from planner.plan.plan import Boundary, Plan
from profiles.hooks.anchors import AnchorHooks, Reported
from profiles.hooks.workload import Workload
from profiles.schema.memory import slot_memory
from profiles.schema.profile import (
    OPTIMIZER_POST,
    OPTIMIZER_PRE,
    Profile,
    StorageKind,
)
from runtime import Replay
from runtime.proof.proof import prove
from tests.support.planning.hardest_plans import everything_away
from tests.support.training.estimating import assert_same_step, estimated
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import seeded

WIDTH, LAYERS, ROWS = 64, 4, 8
Parameters = Iterable[torch.Tensor]
MakeOptimizer = Callable[[Parameters], torch.optim.Optimizer]

ONE_BY_ONE: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
}
ALL_AT_ONCE: dict[str, MakeOptimizer] = {
    "sgd_foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}
OPTIMIZERS = ONE_BY_ONE | ALL_AT_ONCE


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def training(make_optimizer: MakeOptimizer) -> Workload:
    """Nearly all memory is parameters, gradients and states."""
    model = perceptron()
    optimizer = make_optimizer(model.parameters())
    generator = seeded(1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        inputs = torch.rand(ROWS, WIDTH, generator=generator)
        loss = functional.mse_loss(model(inputs), inputs)
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


@cache
def recorded(make_optimizer: MakeOptimizer) -> Profile:
    return record_at_fixed_times(training(make_optimizer))


class Keys:
    """Keeps the keys of the anchors that it hears of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        self.heard.append(key)


def heard(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], object]
) -> list[str]:
    """The anchors of one step from the first `optimizer:pre` on."""
    keys = Keys()
    hooks = AnchorHooks(model, optimizer, keys)
    with hooks.step():
        step()
    hooks.close()
    return keys.heard[keys.heard.index(OPTIMIZER_PRE) : -1]


def updates_of(names: Iterable[str]) -> list[str]:
    return [OPTIMIZER_PRE, *(f"update:{name}" for name in names), OPTIMIZER_POST]


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("make_optimizer", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_each_parameter_has_its_anchor_from_the_first_step_on(
    make_optimizer: MakeOptimizer,
) -> None:
    workload = training(make_optimizer)
    for _ in range(3):
        found = heard(workload.model, workload.optimizer, workload.step)
        assert sorted(found) == sorted(updates_of(names_of(workload.model)))
    # Adafactor takes matrices and vectors in turns; all others go in the model's order.
    if not isinstance(workload.optimizer, torch.optim.Adafactor):
        assert found == updates_of(names_of(workload.model))


@pytest.mark.parametrize("make_optimizer", ALL_AT_ONCE.values(), ids=ALL_AT_ONCE)
def test_parameters_updated_at_once_have_one_anchor(make_optimizer: MakeOptimizer) -> None:
    workload = training(make_optimizer)
    workload.step()
    found = heard(workload.model, workload.optimizer, workload.step)
    assert found == updates_of(["0.weight"])


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_estimate_names_the_anchors_of_the_recording(make_optimizer: MakeOptimizer) -> None:
    assert_same_step(estimated(lambda: training(make_optimizer)), recorded(make_optimizer))


def test_a_second_optimizer_step_is_counted() -> None:
    workload = training(ONE_BY_ONE["sgd"])

    def twice() -> None:
        workload.step()
        workload.optimizer.step()

    once = updates_of(names_of(workload.model))
    assert heard(workload.model, workload.optimizer, twice) == [*once, *(f"{k}#1" for k in once)]


def test_groups_are_updated_in_their_order() -> None:
    model = perceptron()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    groups: list[dict[str, Any]] = [{"params": biases}, {"params": weights, "lr": 0.1}]
    optimizer = torch.optim.Adam(groups)
    model(torch.ones(2, WIDTH)).sum().backward()
    names = sorted(names_of(model), key=lambda name: name.endswith("weight"))
    assert heard(model, optimizer, optimizer.step) == updates_of(names)


def test_a_tied_parameter_is_one() -> None:
    model = perceptron()
    model[2].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, WIDTH)).sum().backward()
    found = heard(model, optimizer, optimizer.step)
    assert found == updates_of(name for name in names_of(model) if name != "2.weight")


def test_a_storage_of_several_parameters_belongs_to_none() -> None:
    """As with DistributedDataParallel's gradients that are views of a bucket."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bucket = torch.ones(sum(p.numel() for p in model.parameters()))
    parts = bucket.split([p.numel() for p in model.parameters()])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)

    def halve_gradients(*_: object) -> None:
        bucket.mul_(0.5)

    def step() -> None:
        # A hook of the user, called after the one that starts looking for updates.
        optimizer.register_step_pre_hook(halve_gradients)
        optimizer.step()

    assert heard(model, optimizer, step) == updates_of(names_of(model))


def test_a_closure_is_no_part_of_the_update() -> None:
    workload = training(ONE_BY_ONE["adam"])
    modes: list[int] = []

    def closure() -> float:
        modes.append(len(_get_current_dispatch_mode_stack()))
        workload.optimizer.zero_grad()
        loss = workload.model(torch.ones(2, WIDTH)).sum()
        loss.backward()
        return loss.item()

    found = heard(workload.model, workload.optimizer, lambda: workload.optimizer.step(closure))
    assert found == updates_of(names_of(workload.model)), "the closure's own anchors come first"
    assert modes == [0]


def test_an_exception_inside_the_optimizer_leaves_no_mode_behind() -> None:
    workload = training(ONE_BY_ONE["adam"])
    hooks = AnchorHooks(workload.model, workload.optimizer, Keys())

    def fail() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hooks.step():
        workload.optimizer.step(fail)
    assert _get_current_dispatch_mode_stack() == []
    with hooks.step():
        workload.step()
    hooks.close()
    assert _get_current_dispatch_mode_stack() == []


def optimizer_slots(plan: Plan) -> range:
    """The slots from `optimizer:pre` to the one before `optimizer:post`."""
    anchors = [slot.anchor for slot in plan.slots]
    return range(anchors.index(OPTIMIZER_PRE), anchors.index(OPTIMIZER_POST))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_streamed_through_the_update_is_bit_equal(name: str) -> None:
    plan = everything_away(recorded(OPTIMIZERS[name]))
    report = prove(plan, build=lambda: training(OPTIMIZERS[name]), steps=3, timed_steps=1)
    assert report.losses_equal
    assert report.tensors_equal
    assert (report.misses, report.fallbacks, report.warnings) == (0, 0, ())
    assert report.peak_with_bytes == plan.certificate.peak_bytes == plan.budget_bytes


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_step_needs_less_than_parameters_gradients_and_states(name: str) -> None:
    """They wait on the host, from step to step too, and pass through the device one by one."""
    profile = recorded(ONE_BY_ONE[name])
    plan = everything_away(profile, boundary=Boundary.PERIODIC)
    assert plan.budget_bytes < held_bytes(profile)
    report = prove(plan, build=lambda: training(ONE_BY_ONE[name]), steps=4, timed_steps=1)
    assert report.losses_equal
    assert report.tensors_equal
    assert (report.misses, report.fallbacks, report.warnings) == (0, 0, ())
    assert report.peak_with_bytes == plan.certificate.peak_bytes == plan.budget_bytes


def held_bytes(profile: Profile) -> int:
    """Parameters, gradients and states when a step ends."""
    kinds = (StorageKind.PARAMETER, StorageKind.GRADIENT, StorageKind.OPTIMIZER_STATE)
    return sum(s.size_bytes for s in profile.storages if s.kind in kinds and s.released_op is None)


@pytest.mark.parametrize("name", ["sgd_momentum", "adam", "adamw", "rmsprop"])
def test_the_update_needs_one_family_at_a_time(name: str) -> None:
    profile = recorded(ONE_BY_ONE[name])
    plan = everything_away(profile)
    resident_bytes = max(slot_memory(profile)[t].resident_bytes for t in optimizer_slots(plan))
    assert resident_bytes >= held_bytes(profile)
    # Of the model's layers, one is there at a time, with what the update computes from it.
    update_bytes = max(planned_bytes(plan)[t] for t in optimizer_slots(plan))
    assert update_bytes < held_bytes(profile) * 2 / LAYERS


def test_the_peak_in_the_update_is_what_was_planned() -> None:
    """Counted from inside, by steps that follow the plan: the first makes the states instead."""
    workload = training(ONE_BY_ONE["adam"])
    plan = everything_away(recorded(ONE_BY_ONE["adam"]))
    planned_peak_bytes = max(planned_bytes(plan)[t] for t in optimizer_slots(plan))
    peaks_bytes: list[int] = []
    workload.optimizer.register_step_post_hook(
        lambda *_: peaks_bytes.append(replay._stepper.accountant.memory.peak_bytes)
    )
    with Replay(plan, workload.model, workload.optimizer) as replay:
        accountant = replay._stepper.accountant
        workload.optimizer.register_step_pre_hook(
            lambda *_: setattr(accountant.memory, "peak_bytes", accountant.memory.live_bytes)
        )
        for _ in range(3):
            with replay.step() as statistics:
                loss = workload.step()
            assert statistics.fallback is None
    del loss
    assert peaks_bytes[0] <= plan.budget_bytes
    assert peaks_bytes[1:] == [planned_peak_bytes] * 2


def test_updates_are_found_only_if_the_plan_acts_there() -> None:
    profile = recorded(ONE_BY_ONE["adam"])
    plan = everything_away(profile)
    inside = optimizer_slots(plan)
    outside = tuple(
        swap
        for swap in plan.swaps
        if not {swap.swap_out_slot, swap.release_slot, swap.swap_in_slot, swap.await_slot}
        & set(inside[1:])
    )
    assert 0 < len(outside) < len(plan.swaps)
    workload = training(ONE_BY_ONE["adam"])
    modes: list[int] = []
    workload.optimizer.register_step_post_hook(
        lambda *_: modes.append(len(_get_current_dispatch_mode_stack()))
    )
    for swaps, reported in ((outside, Reported.ALL_BUT_UPDATES), (plan.swaps, Reported.EVERYTHING)):
        chosen = plan.model_copy(update={"swaps": swaps, "budget_bytes": 1 << 30})
        with Replay(chosen, workload.model, workload.optimizer) as replay:
            assert replay._stepper.course.reported is reported
            for _ in range(2):
                with replay.step() as statistics:
                    workload.step()
                assert statistics.fallback is None


def test_foreach_states_made_one_by_one_are_no_divergence() -> None:
    """In its first step SGD makes each momentum buffer from its gradient."""
    make_optimizer = ALL_AT_ONCE["sgd_foreach"]
    workload = training(make_optimizer)
    first = heard(workload.model, workload.optimizer, workload.step)
    assert first == updates_of(names_of(workload.model))
    plan = everything_away(recorded(make_optimizer))
    again = training(make_optimizer)
    with Replay(plan, again.model, again.optimizer) as replay:
        for _ in range(2):
            with replay.step() as statistics:
                again.step()
            assert statistics.fallback is None
