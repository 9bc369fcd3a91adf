"""What holds for every baseline that runs ops again: its step is a valid one."""

from pathlib import Path

import pytest

from planner.heuristics.recomputing.catalog import RECOMPUTING, published_drops
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing
from planner.heuristics.task import task_of
from profiles.library.index import profile_path
from profiles.schema.checks import verified
from profiles.schema.memory import slot_memory
from profiles.schema.profile_file import read_profile
from tests.support.recompute.forward_backward import asked, never, two_blocks


def checked(choice: Choice) -> Choice:
    """Asserts that a choice's step is a profile, and that its figures are that profile's."""
    step = choice.step()
    verified(step.profile)
    held_bytes = tuple(slot.resident_bytes for slot in slot_memory(step.profile))
    assert choice.problem.resident_bytes == held_bytes
    assert sum(step.recompute_us) == pytest.approx(choice.recompute_us)
    assert choice.step_us >= choice.task.base.problem.compute_us
    return choice


@pytest.mark.parametrize("baseline", RECOMPUTING, ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("budget_bytes", [8, 12, 16, 20])
def test_steps_are_valid_and_figures_are_theirs(baseline: Recomputing, budget_bytes: int) -> None:
    checked(baseline.rule(asked(two_blocks(), budget_bytes), never))


@pytest.mark.parametrize("baseline", RECOMPUTING, ids=lambda baseline: baseline.name)
def test_a_network_s_step_is_valid(baseline: Recomputing) -> None:
    profile = read_profile(profile_path(Path("library:unet3d-144-v100-16gb")))
    task = task_of(profile, profile.peak_bytes * 7 // 10)
    checked(baseline.rule(RecomputeTask(task), never))


def test_what_is_dropped_is_offered_to_searches_once() -> None:
    found = list(published_drops(asked(two_blocks(), 12), never))
    names = {name: {gap.name for gap in dropped} for name, dropped in found}
    # Without products the whole forward is one segment of SuperNeurons', torchtitan offloads x, and
    # POFO what enters b, with z; all others drop as the first does, or nothing.
    assert names == {
        "checkpointing": {"x", "z"},
        "SuperNeurons, with recomputation": {"x", "y", "z"},
        "torchtitan keep/recompute/offload": {"z"},
        "POFO": {"x"},
    }
    assert list(published_drops(asked(two_blocks(), 12), lambda: True)) == []
