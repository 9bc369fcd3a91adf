"""Memory that an array, a file or another process looks at, and tensors that count no versions."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from planner.plan.plan import Plan
from profiles.hooks.plain_tensors import has_storage, is_movable
from profiles.hooks.workload import Workload
from runtime import FallbackWarning, Replay
from tests.support.planning.hardest_plans import periodic
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.pairs import first_parameter, pair, plan_for
from tests.support.training.recorded import assert_same, snapshot
from tests.support.training.wrappers import Quantised


def roomy(plan: Plan) -> Plan:
    """The same trips within a budget that leaves room for all of them not being made."""
    return plan.model_copy(update={"budget_bytes": plan.certificate.peak_without_bytes * 2})


@pytest.mark.cpu_only
def test_a_weight_logged_between_two_steps_costs_the_plan_nothing() -> None:
    with pair() as both:
        for _ in range(3):
            mean = first_parameter(both.planned).detach().numpy().mean()
            assert mean == first_parameter(both.plain).detach().numpy().mean()
            both.step()
            assert both.replay.steps[-1].skipped_swaps == 0
            assert both.away() > 10
        assert is_movable(first_parameter(both.planned).untyped_storage())


@pytest.mark.cpu_only
def test_an_array_that_is_alive_keeps_only_its_own_storage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pair(plan=roomy(plan_for("adam"))) as both:
        usual = both.away()
        array = first_parameter(both.planned).detach().numpy()
        for _ in range(2):
            both.step()
            assert both.replay.steps[-1].skipped_swaps > 0
            assert both.away() == usual - 1
            assert np.array_equal(array, first_parameter(both.plain).detach().numpy())
            both.step()
        told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert len(told) == 1
        assert "Logged once" in told[0]
        assert "parameter:0.weight" in told[0]
        del array
        both.step()
        assert (both.replay.steps[-1].skipped_swaps, both.away()) == (0, usual)


@pytest.mark.cpu_only
def test_without_room_for_it_the_step_falls_back() -> None:
    with pair() as both:
        arrays = [state["exp_avg"].numpy() for state in both.planned.optimizer.state.values()]
        both.plain.step()
        with pytest.warns(FallbackWarning, match="can no longer be resized"), both.replay.step():
            both.planned.step()
        assert both.away() == 0
        del arrays
        both.step()
        assert both.away() > 10


def shared(workload: Workload) -> None:
    workload.model.share_memory()


def from_arrays(workload: Workload) -> None:
    for parameter in workload.model.parameters():
        parameter.data = torch.from_numpy(parameter.detach().numpy().copy())


@pytest.mark.cpu_only
@pytest.mark.parametrize("lend", [shared, from_arrays])
def test_what_others_may_write_is_never_moved_elsewhere(lend: Callable[[Workload], None]) -> None:
    with pair(plan=roomy(plan_for("adam"))) as both:
        for workload in (both.plain, both.planned):
            lend(workload)
        held = [parameter.data_ptr() for parameter in both.planned.model.parameters()]
        for _ in range(2):
            both.step()
            assert both.replay.steps[-1].skipped_swaps > 0
        assert held == [parameter.data_ptr() for parameter in both.planned.model.parameters()]


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_parameters_that_were_replaced_train_resident(tmp_path: Path) -> None:
    """From a mapped file, too; what they replace may still be alive, so no budget holds."""
    with pair() as both:
        torch.save(both.plain.model.state_dict(), tmp_path / "weights.pt")
        for workload in (both.plain, both.planned):
            weights = torch.load(tmp_path / "weights.pt", mmap=True)
            workload.model.load_state_dict(weights, assign=True)
        for _ in range(3):
            both.plain.step()
            with both.replay.step() as statistics:
                both.planned.step()
            assert "attach it again" in str(statistics.fallback)


class Distilling(nn.Module):
    """A student, and a teacher that was made in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(*[nn.Linear(32, 32) for _ in range(3)])
        with torch.inference_mode():
            self.teacher = nn.Sequential(*[nn.Linear(32, 32) for _ in range(3)])
        self.teacher.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            target = self.teacher(inputs)
        return self.student(inputs) - target.clone()


def distilling(writes: Callable[[int], bool]) -> Workload:
    """It writes the teacher in some steps, where no version counts it."""
    torch.manual_seed(0)
    model = Distilling()
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3, foreach=False)
    inputs, steps = torch.randn(16, 32), [0]

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        steps[0] += 1
        if writes(steps[0]):
            with torch.inference_mode():
                for parameter in model.teacher.parameters():
                    parameter.mul_(0.9)
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize("writes", [lambda _: False, lambda step: step == 5])
def test_inference_tensors_train_as_without_a_plan(writes: Callable[[int], bool]) -> None:
    profile = record_at_fixed_times(distilling(lambda _: False))
    plan = periodic(profile)
    moved = {plan.storage(swap.storage).name for swap in plan.swaps if swap.clean}
    assert any("teacher" in name for name in moved)
    plain, planned = distilling(writes), distilling(writes)
    with Replay(plan, planned.model, planned.optimizer) as replay:
        for step in range(8):
            plain.step()
            with replay.step() as statistics:
                planned.step()
            assert (statistics.fallback is None) == (not writes(step + 1))
    assert_same(snapshot(plain), snapshot(planned))


class Plainly(torch.Tensor):
    """A subclass with memory of its own."""


def test_a_tensor_that_wraps_others_has_no_storage() -> None:
    weights = Quantised(torch.ones(4, 4, dtype=torch.int8), torch.tensor(0.5))
    assert not has_storage(weights)
    assert not has_storage(nn.Parameter(weights, requires_grad=False))
    own = torch.ones(4).as_subclass(Plainly)
    assert has_storage(own)
    own.untyped_storage().resize_(0)
    assert has_storage(own), "it is away"
