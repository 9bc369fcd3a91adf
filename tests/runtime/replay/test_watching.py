"""What a replay tells about itself: statistics, ranges, a line at the end."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from planner.plan.plan import Plan
from planner.plan.schedule import ActionKind, lower
from profiles.hooks.workload import Workload
from profiles.schema.errors import SwapplanError
from runtime import FallbackWarning, LoadedPlan, Ranges, Replay
from runtime.replay.timeline import WORDS
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import everything_away_plan, periodic_plan


@pytest.fixture(name="plan")
def _plan() -> Plan:
    return everything_away_plan("unet3d")


@pytest.fixture(name="workload")
def _workload() -> Workload:
    return BUILDERS["unet3d"]()


@pytest.fixture(name="replay")
def _replay(plan: Plan, workload: Workload) -> Iterator[Replay]:
    """Attached, after the step that makes the lazy optimizer states."""
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        with replay.step():
            loss = workload.step()
        yield replay
    del loss


@pytest.mark.cpu_only
def test_a_step_tells_all_that_it_did(plan: Plan, workload: Workload, replay: Replay) -> None:
    with replay.step() as statistics:
        workload.step()
    assert statistics.d2h_bytes == plan.certificate.d2h_bytes
    assert statistics.h2d_bytes == plan.certificate.h2d_bytes
    assert statistics.host_peak_bytes == plan.host_pool_bytes > 0
    assert statistics.peak_bytes == plan.certificate.peak_bytes
    assert statistics.allocated_peak_bytes is None, "the emulated device has no allocator"
    assert (statistics.misses, statistics.fallback, statistics.skipped_swaps) == (0, None, 0)
    assert 0 <= statistics.stall_us < statistics.duration_us


def test_host_copies_that_stay_count_in_every_step(workload: Workload) -> None:
    """Clean trips copy nothing to the host; what they come back from takes part of the pool."""
    plan = periodic_plan("unet3d")
    assert any(swap.clean for swap in plan.swaps)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(4):
            with replay.step() as statistics:
                workload.step()
    assert statistics.fallback is None
    assert statistics.d2h_bytes == plan.certificate.d2h_bytes < statistics.h2d_bytes
    assert statistics.host_peak_bytes == plan.host_pool_bytes


def test_a_profiler_shows_every_action_by_storage(
    plan: Plan, workload: Workload, replay: Replay
) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiled, replay.step() as statistics:
        workload.step()
    assert statistics.fallback is None
    found = sorted(e.name for e in profiled.events() if e.name.startswith("swapplan::"))
    actions = [action for row in lower(plan) for action in row]
    assert found == sorted(
        f"swapplan::{WORDS[action.kind]} {plan.storage(action.storage).name}" for action in actions
    )
    assert {name.split()[0].removeprefix("swapplan::") for name in found} >= {
        WORDS[ActionKind.RELEASE],
        WORDS[ActionKind.SWAP_IN],
    }


def test_without_a_profiler_no_range_is_opened(
    monkeypatch: pytest.MonkeyPatch, workload: Workload, replay: Replay
) -> None:
    opened: list[str] = []
    real = torch.autograd.profiler.record_function

    def logged(name: str) -> torch.autograd.profiler.record_function:
        opened.append(name)
        return real(name)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", logged)
    with replay.step() as statistics:
        workload.step()
    assert statistics.fallback is None
    assert opened, "torch's optimizers open theirs"
    assert not [name for name in opened if name.startswith("swapplan::")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nvtx_without_cuda_is_refused_in_one_line(plan: Plan, workload: Workload) -> None:
    with pytest.raises(SwapplanError, match=r"needs a CUDA device.*TORCH_PROFILER"):
        LoadedPlan(plan).attach(workload.model, workload.optimizer, ranges=Ranges.NVTX)


def test_the_line_at_the_end(
    plan: Plan, workload: Workload, caplog: pytest.LogCaptureFixture
) -> None:
    replay = Replay(plan, workload.model, workload.optimizer)
    assert replay.summary() == "swapplan: no step was replayed."
    for _ in range(3):
        with replay.step():
            workload.step()
    line = replay.summary()
    assert line.startswith("swapplan: 3 steps; 0 fell back to resident; 0 misses; per step, median")
    assert "of 2 measured" in line
    assert " out, " in line
    assert " of the budget's " in line
    assert "\n" not in line
    with caplog.at_level(logging.INFO, logger="swapplan"):
        replay.close()
        replay.close()
    assert caplog.messages == [line], "once, however often it is closed"


def test_the_line_names_the_last_fallback(plan: Plan, workload: Workload) -> None:
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with replay.step():
            workload.step()
        with pytest.warns(FallbackWarning), replay.step():
            workload.optimizer.step()
            workload.step()
        line = replay.summary()
    assert line.startswith("swapplan: 2 steps; 1 fell back to resident (last: step 1, ")
    assert "per step" not in line
