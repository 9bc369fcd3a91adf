"""A step recorded in the loop that runs it: what `record` finds, and no number changed."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from profiles import Recorder
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.workload import Workload
from profiles.recording.clocks import AnchorStamps
from profiles.recording.record import record
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import Profile
from tests.support.training import models
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK, UNNAMED
from tests.support.training.plain_steps import two_layers
from tests.support.training.recorded import assert_same, snapshot
from tests.support.training.steps import STEPS

LOOP_STEPS = 20


def recorded_in_a_loop(workload: Workload) -> Profile:
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())
    for _ in range(LOOP_STEPS):
        with recorder.step():
            loss = workload.step()
    assert recorder.is_done
    assert loss.isfinite()
    return recorder.profile(link=FAST_LINK)


@pytest.mark.parametrize("make", [two_layers, models.unet3d, models.checkpointed])
def test_a_loop_records_what_a_function_does(make: Callable[[], Workload]) -> None:
    found = recorded_in_a_loop(make())
    expected = record(make(), source=UNNAMED, link=FAST_LINK, instruments=counting_tools())
    assert [slot.anchor for slot in found.slots] == [slot.anchor for slot in expected.slots]
    assert [op.name for op in found.ops] == [op.name for op in expected.ops]
    assert found.storages == expected.storages


@pytest.mark.cpu_only
def test_a_step_that_saves_otherwise_under_a_mode_is_timed_under_one() -> None:
    workload = STEPS["temporal classification"]()
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())
    trace = recorder._traced.trace
    plainly: list[str] = []
    while not recorder.is_done:
        with recorder.step():
            workload.step()
        if recorder._timing._under_mode and not plainly:
            assert recorder._timing.done == 0, "what was timed without a mode does not count"
            hooks = AnchorHooks(workload.model, workload.optimizer)
            stamps = AnchorStamps(counting_tools().clock)
            with hooks.step(stamps):
                workload.step()
            hooks.close()
            plainly = stamps.keys
    assert plainly
    assert plainly != trace.anchors
    assert recorder.profile(link=FAST_LINK).timed_steps == 3


def test_recording_changes_no_number_and_leaves_nothing_behind() -> None:
    plain, workload = two_layers(), two_layers()
    for _ in range(LOOP_STEPS):
        plain.step()
    recorded_in_a_loop(workload)
    assert_same(snapshot(plain), snapshot(workload))
    hooks = [module._forward_pre_hooks for module in workload.model.modules()]
    assert not any(hooks)


def test_what_the_loop_holds_counts_from_the_beginning() -> None:
    workload = two_layers()
    ahead = [torch.ones(1000 + number) for number in range(3)]
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())
    while not recorder.is_done:
        with recorder.step():
            workload.step()
    sizes = [s.size_bytes for s in recorder.profile(link=FAST_LINK).storages]
    assert {4 * len(batch) for batch in ahead} <= set(sizes)


def test_a_recording_drops_what_the_loop_drops() -> None:
    """The frame's variables are looked at; a copy of them must not keep what they held."""
    workload = two_layers()
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())
    while not recorder.is_done:
        batch = torch.ones(12_345)
        with recorder.step():
            del batch
            workload.step()
    storages = recorder.profile(link=FAST_LINK).storages
    (dropped,) = [s for s in storages if s.size_bytes == 4 * 12_345]
    assert dropped.allocated_op is None
    assert dropped.released_slot == 0


def test_a_profile_is_asked_for_too_early() -> None:
    workload = two_layers()
    recorder = Recorder(workload.model, workload.optimizer)
    with pytest.raises(WorkloadError, match=r"not done: it is still warming up.*recorder\.step"):
        recorder.profile(link=FAST_LINK)


def test_hooks_that_are_there_stay_when_the_recording_is_done() -> None:
    workload = two_layers()
    hooks = AnchorHooks(workload.model, workload.optimizer)
    recorder = Recorder(
        workload.model, workload.optimizer, instruments=counting_tools(), hooks=hooks
    )
    while not recorder.is_done:
        with recorder.step():
            workload.step()
    assert any(module._forward_pre_hooks for module in workload.model.modules())
    hooks.close()


def test_a_step_of_another_course_ends_the_recording() -> None:
    workload = two_layers()
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())

    def train() -> None:
        while not recorder.is_done:
            with recorder.step():
                workload.step()
                if recorder._passes[0].doing == "timing":
                    workload.model(torch.ones(2, next(workload.model.parameters()).shape[1]))

    with pytest.raises(WorkloadError, match="another course each time"):
        train()
    recorder.close()


def test_a_step_begun_by_a_callback_keeps_none_of_its_variables() -> None:
    """A function that has returned holds nothing; nor does what looked at its variables."""
    workload = two_layers()
    recorder = Recorder(workload.model, workload.optimizer, instruments=counting_tools())
    lives_on = []
    while not recorder.is_done:
        batch = torch.ones(12_345)
        is_dropped = weakref.ref(batch)
        running = entered(recorder, batch)
        del batch
        lives_on.append(is_dropped() is not None)
        workload.step()
        running.__exit__(None, None, None)
    assert not any(lives_on)


def entered(recorder: Recorder, batch: torch.Tensor) -> AbstractContextManager[None]:
    """Begins a step as a callback does that is handed the batch."""
    running = recorder.step()
    assert batch.sum() > 0
    running.__enter__()
    return running
