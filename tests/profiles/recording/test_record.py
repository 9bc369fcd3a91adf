"""What the recorder sees of a step small enough to know by heart."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from profiles.hooks.dispatch import storages_of
from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload, reached_tensors
from profiles.recording import trace
from profiles.recording.record import record
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import Access, LeftOut, OpTrait, Profile, Storage, StorageKind
from runtime.storage.accountant import Accountant
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK, UNNAMED
from tests.support.training.models import BUILDERS
from tests.support.training.plain_steps import ROWS, WIDTH, two_layers
from tests.support.training.recorded import recorded

FLOAT = 4


@pytest.fixture(scope="module", name="profile")
def _profile() -> Profile:
    return record(two_layers(), source=UNNAMED, link=FAST_LINK, timed_steps=2)


def named(profile: Profile, name: str) -> Storage:
    return next(storage for storage in profile.storages if storage.name == name)


def ops_using(profile: Profile, name: str) -> list[str]:
    return [profile.ops[use.op].name for use in named(profile, name).uses]


@pytest.mark.cpu_only
def test_anchors_stand_in_program_order(profile: Profile) -> None:
    assert [slot.anchor for slot in profile.slots] == [
        "begin",
        "pre:0",
        "pack:0",  # x, which the gradient of the first weight needs
        "pre:1",
        "pack:1",  # tanh(x @ a), its own output
        "pre:2",
        "pack:2",  # the second weight
        "pack:3",  # the same storage as pack:1, as input of the second layer
        "unpack:2",
        "unpack:3",
        "grad:2.weight",
        "unpack:1",
        "unpack:0",
        "grad:0.weight",
        "optimizer:pre",
        "update:0.weight",
        "update:2.weight",
        "optimizer:post",
        "end",
    ]


def test_a_saved_activation(profile: Profile) -> None:
    hidden = named(profile, "pack:1")
    assert hidden.kind is StorageKind.ACTIVATION
    assert hidden.size_bytes == ROWS * WIDTH * FLOAT
    assert hidden.left_out is None
    assert profile.slots[hidden.shown_at or 0].anchor == "pack:1"
    shown = [slot.anchor for slot in profile.slots if slot.shows == hidden.id]
    assert shown == ["pack:1", "pack:3"]
    assert profile.ops[hidden.allocated_op or 0].name == "aten.tanh.default"
    uses = ops_using(profile, "pack:1")
    assert uses[:2] == ["aten.tanh.default", "aten.mm.default"]
    assert uses[-1] == "aten.tanh_backward.default"
    assert hidden.uses[0].access is Access.WRITE
    assert {use.access for use in hidden.uses[1:]} == {Access.READ}
    # Its memory goes with the backward node that needed it last.
    assert hidden.released_op is not None
    assert hidden.released_op >= hidden.uses[-1].op


@pytest.mark.cpu_only
def test_owned_storages_live_through_the_step(profile: Profile) -> None:
    for name, kind in (
        ("parameter:0.weight", StorageKind.PARAMETER),
        ("parameter:2.weight", StorageKind.PARAMETER),
        ("state:0.weight.momentum_buffer", StorageKind.OPTIMIZER_STATE),
        ("state:2.weight.momentum_buffer", StorageKind.OPTIMIZER_STATE),
    ):
        storage = named(profile, name)
        assert storage.kind is kind
        assert storage.allocated_op is storage.released_op is None
        assert storage.shown_at == 0
    weight = named(profile, "parameter:0.weight")
    assert weight.size_bytes == WIDTH * WIDTH * FLOAT
    assert profile.ops[weight.uses[-1].op].name == "aten.add_.Tensor"
    assert weight.uses[-1].access is Access.WRITE


def test_gradients_are_found_by_the_anchor_that_follows_them(profile: Profile) -> None:
    gradient = named(profile, "grad:0.weight")
    assert gradient.kind is StorageKind.GRADIENT
    assert profile.slots[gradient.shown_at or 0].anchor == "grad:0.weight"
    assert gradient.allocated_op is not None
    assert gradient.released_op is None, "it waits for the next zero_grad"


def test_the_rest_is_left_out_with_a_reason(profile: Profile) -> None:
    left_out = [storage for storage in profile.storages if storage.left_out is not None]
    assert left_out
    assert {storage.left_out for storage in left_out} == {LeftOut.NEVER_SHOWN}
    assert {storage.kind for storage in left_out} <= {StorageKind.TEMPORARY, StorageKind.GRADIENT}


def test_slots_take_the_time_between_anchors_and_ops_that_of_their_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = itertools.count(step=1500)
    counting = SimpleNamespace(perf_counter_ns=lambda: next(now_ns))
    monkeypatch.setattr(trace, "time", counting)
    tools = counting_tools()
    profile = record(two_layers(), source=UNNAMED, link=FAST_LINK, timed_steps=2, instruments=tools)
    slots = len(profile.slots) - 1
    assert [slot.duration_us for slot in profile.slots] == [1.0 + t % 7 for t in range(slots)] + [0]
    assert {op.duration_us for op in profile.ops} == {1.5}
    assert (profile.warmup_steps, profile.timed_steps, profile.settled) == (2, 2, True)


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", BUILDERS)
def test_the_profile_counts_what_the_accountant_counts(name: str) -> None:
    """Two independent countings of the same step agree to the byte."""
    planned = recorded(name).peak_bytes
    workload = BUILDERS[name]()
    accountant = Accountant(torch.device("cpu"), budget_bytes=None)
    accountant.memory.count(
        storages_of(reached_tensors(workload.model, workload.optimizer, workload.step))
    )
    for _ in range(3):
        accountant.memory.count_owned(owned_storages(workload.model, workload.optimizer))
        with accountant:
            loss = workload.step()
    del loss
    assert accountant.memory.peak_bytes == planned


@pytest.mark.cpu_only
def test_memory_of_somebody_else_is_left_out() -> None:
    """numpy owns the batch; its storage cannot be resized."""
    inputs = torch.from_numpy(np.ones((ROWS, WIDTH), dtype=np.float32))
    workload = two_layers()

    def step() -> torch.Tensor:
        workload.optimizer.zero_grad()
        loss = workload.model(inputs).sum()
        loss.backward()
        workload.optimizer.step()
        return loss

    owner = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    profile = record(owner, source=UNNAMED, link=FAST_LINK, timed_steps=1)
    batch = named(profile, "pack:0")
    assert batch.kind is StorageKind.INPUT
    assert batch.left_out is LeftOut.NOT_RESIZABLE


def test_a_batch_that_is_kept_is_there_from_the_begin_on() -> None:
    """Labels are first used at the end of forward, but the next step begins with them."""
    workload = two_layers()
    inputs = torch.ones(ROWS, WIDTH)
    labels = torch.ones_like(workload.model(inputs))

    def step() -> torch.Tensor:
        workload.optimizer.zero_grad()
        loss = (workload.model(inputs) - labels).square().sum()
        loss.backward()
        workload.optimizer.step()
        return loss.detach()

    owner = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    profile = record(owner, source=UNNAMED, link=FAST_LINK, timed_steps=1)
    kept = [s for s in profile.storages if s.kind is StorageKind.INPUT]
    assert len(kept) == 2
    assert all(s.allocated_op is s.released_op is None for s in kept)


def test_a_step_that_changes_is_refused() -> None:
    workload = two_layers()
    calls = iter(range(100))

    def step() -> torch.Tensor:
        if next(calls) % 2:
            workload.model(torch.ones(ROWS, WIDTH))
        return workload.step()

    changing = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    with pytest.raises(WorkloadError, match="another course each time"):
        record(changing, source=UNNAMED, link=FAST_LINK)


def test_a_step_without_an_optimizer_is_refused() -> None:
    workload = two_layers()

    def step() -> torch.Tensor:
        loss = workload.model(torch.ones(ROWS, WIDTH)).sum()
        loss.backward()
        return loss

    without = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    with pytest.raises(WorkloadError, match=r"never calls optimizer\.step"):
        record(without, source=UNNAMED, link=FAST_LINK)


def test_a_model_without_parameters_is_refused() -> None:
    workload = two_layers()
    empty = Workload(model=nn.Tanh(), optimizer=workload.optimizer, step=workload.step)
    with pytest.raises(WorkloadError, match="no parameters"):
        record(empty, source=UNNAMED, link=FAST_LINK)


def test_recording_leaves_no_hook_behind() -> None:
    workload = two_layers()
    record(workload, source=UNNAMED, link=FAST_LINK, timed_steps=1)
    assert not any(module._forward_pre_hooks for module in workload.model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in workload.model.parameters())


class ByAddress(torch.autograd.Function):
    """Stands for a kernel that is no op: nothing but anchors shows what it reads."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        return torch.empty(inputs.shape).fill_(1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (inputs,) = ctx.saved_tensors
        return torch.ones(inputs.shape), torch.ones(WIDTH, WIDTH)


class Addressed(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = ByAddress.apply(inputs, self.weight)
        return result


@pytest.mark.cpu_only
def test_anchors_that_ask_for_bytes_touch_them() -> None:
    """A saved tensor is needed where it is unpacked, a parameter where each of its modules runs."""
    weight = nn.Parameter(torch.ones(WIDTH, WIDTH))
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Addressed(weight), nn.Tanh(), Addressed(weight))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.ones(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(inputs).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    workload = Workload(model=model, optimizer=optimizer, step=step)
    profile = record(workload, source=UNNAMED, link=FAST_LINK, timed_steps=1)
    touched = {
        storage.name: [profile.slots[touch.slot].anchor for touch in storage.touches]
        for storage in profile.storages
        if storage.touches
    }
    assert touched["parameter:1.weight"] == ["pre:1", "pre:3"]
    packed = next(slot.anchor for slot in profile.slots if slot.anchor.startswith("pack:"))
    assert f"un{packed}" in {anchor for anchors in touched.values() for anchor in anchors}
    linear = next(s for s in profile.storages if s.name == "parameter:0.weight")
    assert profile.slots[linear.touches[0].slot].anchor == "pre:0"


def test_an_op_that_reads_memory_of_another_device_is_not_run_again() -> None:
    """The host's batch may be gone by then; a single number is kept."""
    seen = trace.StepTrace(torch.device("meta"))
    with seen:
        batch = torch.ones(3, device="cpu").to("meta")
        _ = batch * torch.tensor(2.0, device="cpu")
    traits = {op.name: op.traits for op in seen.ops}
    assert traits["aten._to_copy.default"] == (OpTrait.UNKNOWN_EFFECTS,)
    assert traits["aten.mul.Tensor"] == ()
