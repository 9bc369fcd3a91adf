"""Steps that do not fit: recorded while storages are swapped on line, with nothing changed."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from planner.solving import solve
from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload
from profiles.recording.clocks import CpuClock
from profiles.recording.device import Instruments, build_on, device_at_hand, instruments_for
from profiles.schema.errors import CapacityError
from profiles.schema.profile import CPU, Profile, SlotTimes
from profiles.schema.units import parse_size_bytes
from runtime.beyond_capacity.record import record_beyond_capacity
from runtime.proof.proof import prove
from tests.support.steady_meter import SteadyMeter
from tests.support.training.fake_time import CountingClock, DoublingClock
from tests.support.training.fixed_times import FAST_LINK, UNNAMED, record_at_fixed_times
from tests.support.training.models import BUILDERS
from tests.support.training.plain_steps import layers_on_device, two_layers
from tests.support.training.recorded import (
    SHARE,
    assert_all_resident,
    assert_same,
    limit_bytes,
    recorded,
    snapshot,
)


def beyond(workload: Workload, limit: int, **options: Any) -> Profile:
    return record_beyond_capacity(
        workload, source=UNNAMED, link=FAST_LINK, limit_bytes=limit, timed_steps=1, **options
    )


@cache
def recorded_beyond(name: str) -> Profile:
    tools = replace(instruments_for(torch.get_default_device()), clock=CountingClock())
    return beyond(BUILDERS[name](), limit_bytes(name), instruments=tools)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_trace_is_that_of_the_resident_step(name: str) -> None:
    """Storages (bytes, kinds, lifetimes, uses), anchors, what they show, and ops: all the same."""
    resident, swapped = recorded(name), recorded_beyond(name)
    assert swapped.storages == resident.storages
    assert [(s.anchor, s.shows) for s in swapped.slots] == [
        (s.anchor, s.shows) for s in resident.slots
    ]
    assert [(op.name, op.slot, op.module) for op in swapped.ops] == [
        (op.name, op.slot, op.module) for op in resident.ops
    ]
    # Of an allocator's blocks too much is counted, never too little.
    assert swapped.peak_bytes >= resident.peak_bytes
    if swapped.device.kind == CPU:
        assert swapped.peak_bytes == resident.peak_bytes
    assert swapped.model_fingerprint == resident.model_fingerprint


@pytest.mark.parametrize("name", BUILDERS)
def test_a_slot_takes_as_long_as_its_ops(name: str) -> None:
    profile = recorded_beyond(name)
    assert profile.slot_times is SlotTimes.SUM_OF_OPS
    assert {op.duration_us for op in profile.ops} == {1.0 + number for number in range(7)}
    for t, slot in enumerate(profile.slots):
        ops_us = sum(op.duration_us for op in profile.ops if op.slot == t)
        assert slot.duration_us == pytest.approx(ops_us)


@pytest.mark.parametrize("name", BUILDERS)
def test_recording_changes_no_number(name: str) -> None:
    """The steps that recording runs train as any others would, bit by bit."""
    workload, plain = BUILDERS[name](), BUILDERS[name]()
    losses: list[torch.Tensor] = []

    def step() -> torch.Tensor:
        losses.append(workload.step().detach())
        return losses[-1]

    limit = limit_bytes(name)
    # Dropout draws from the generator that both trainings share.
    torch.manual_seed(5)
    told = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    profile = beyond(told, limit)
    assert len(losses) == profile.warmup_steps + profile.timed_steps
    torch.manual_seed(5)
    plain_losses = [plain.step().detach() for _ in losses]
    assert [loss.item() for loss in losses] == [loss.item() for loss in plain_losses]
    assert_same(snapshot(workload), snapshot(plain))
    assert_all_resident(workload)
    for one, other in zip(workload.model.parameters(), plain.model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


# What others hold of an accelerator's allocator is not in what an op is said to need.
@pytest.mark.cpu_only
def test_an_op_too_large_is_named_with_what_it_needs() -> None:
    name = "resnet"
    with pytest.raises(CapacityError, match=r"limit is 1\.00 MiB\. Give it .*--limit") as caught:
        beyond(BUILDERS[name](), 2**20)
    message = str(caught.value)
    assert "\n" not in message
    # The largest of all, not the first that found no room: with as much as is printed it runs.
    needed = message.split(" needs ")[1].split(" on the device")[0]
    assert beyond(BUILDERS[name](), parse_size_bytes("--limit", needed)).storages
    assert message.startswith("aten.")


@pytest.mark.cpu_only
def test_the_emulated_device_has_no_capacity_of_its_own() -> None:
    with pytest.raises(CapacityError, match="--limit 300MiB"):
        record_beyond_capacity(two_layers(), source=UNNAMED, link=FAST_LINK, limit_bytes=None)


def test_a_step_that_never_settles_says_so() -> None:
    tools = Instruments(clock=DoublingClock(), memory=None, kernels=None)
    profile = beyond(two_layers(), 100_000, instruments=tools)
    assert not profile.settled


def test_overhead_is_recorded_beyond_capacity() -> None:
    tools = Instruments(clock=CpuClock(), memory=SteadyMeter(10**6, taken_bytes=300), kernels=None)
    workload = two_layers()
    profile = beyond(workload, 10**5, instruments=tools)
    owned = owned_storages(workload.model, workload.optimizer)
    # Weights, momenta and gradients of 16 x 16 and 16 x 1 floats.
    held = 10**6 - sum(max(512, owner.storage.nbytes()) for owner in owned)
    with_ops = {op.slot for op in profile.ops}
    assert min(slot.overhead_bytes for slot in profile.slots) >= held
    assert min(profile.slots[t].overhead_bytes for t in with_ops) >= held + 300


def test_a_plan_made_beyond_capacity_is_proved() -> None:
    """The profile of a step that did not fit is as good as any other to plan for."""
    profile = recorded_beyond("unet3d")
    plan = solve(profile, budget_bytes=limit_bytes("unet3d"), time_limit_s=1.0)
    report = prove(plan, build=BUILDERS["unet3d"], steps=2, timed_steps=1)
    assert report.passed
    assert report.out_of_memory_without_plan


@pytest.mark.gpu
def test_on_a_gpu_a_step_beyond_its_limit_is_recorded() -> None:
    """The same storages and anchors as resident, and a peak that holds for the resident step."""
    device = device_at_hand("cuda")
    workload = build_on(device, layers_on_device)
    resident_step = record_at_fixed_times(workload)
    limit = int(SHARE * resident_step.peak_bytes)
    swapped = beyond(build_on(device, layers_on_device), limit)
    assert swapped.storages == resident_step.storages
    assert [s.anchor for s in swapped.slots] == [s.anchor for s in resident_step.slots]
    assert swapped.peak_bytes == pytest.approx(resident_step.peak_bytes, rel=0.05)
