"""Courses whose first module is handed the same: foreseen by the rhythm in which they come.

Steps add up one batch or two; both begin with a batch of the same size.
"""

import random
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

import runtime
from planner.plan.plan_set import PlanSet, write_plan_set
from profiles.hooks.workload import Workload
from profiles.recording.recorder import Recorder
from profiles.schema.profile import Profile
from profiles.schema.profile_set import ProfileSet
from runtime.proof.courses import prove_courses
from runtime.replay.replay import Replay
from runtime.training.course import Way
from runtime.training.planned_training import PlannedTraining
from tests.runtime.training.test_within import KIB, ROWS, WIDTH, trained, within
from tests.support.loops.courses import planned_courses, recorded_courses
from tests.support.loops.loop import Trained, assert_same_training
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK
from tests.support.training.models import seeded


def step(it: Trained, batches: int, number: int) -> None:
    """One update by so many batches, all of which are alive until it is made."""
    losses = []
    for batch in torch.randn(batches, ROWS, WIDTH, generator=seeded(number)):
        losses.append((it.model(batch) - batch).square().mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    it.losses.append(loss.item())


def plainly(how: tuple[int, ...]) -> Trained:
    it = trained()
    for number, batches in enumerate(how):
        step(it, batches, number)
    return it


def replays_of(memory: PlannedTraining) -> list[Replay]:
    return [course.replay for course in memory.courses.values() if course.replay is not None]


def tally_of(replay: Replay) -> tuple[int, int, int]:
    """Steps so far, those that fell back to resident, those that left their plan."""
    return sum(1 for _ in replay.steps), replay.fallbacks, replay.left_plan


@cache
def profile_of(batches: int) -> Profile:
    it = trained()
    tools = counting_tools()
    recorder = Recorder(it.model, it.optimizer, instruments=tools)
    while not recorder.is_done:
        with recorder.step():
            step(it, batches, 0)
    return recorder.profile(link=FAST_LINK)


def between_bytes() -> int:
    """A budget in which one batch fits, and two do not."""
    return (profile_of(1).peak_bytes + profile_of(2).peak_bytes) // 2


@pytest.mark.parametrize(
    ("turns", "budget"),
    [((2, 2, 1), 560 * KIB), ((2, 1), "80%"), ((1, 2, 2, 2, 2), 560 * KIB)],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_those_that_come_in_a_rhythm_have_a_plan_each(
    turns: tuple[int, ...], budget: str | int, tmp_path: Path
) -> None:
    """The second is recorded once the first is known: before, its steps leave that one's plan."""
    it = trained()
    how = turns * 16
    with within(it, budget, tmp_path) as memory:
        for number, batches in enumerate(how):
            memory.wait_for_plans()
            if number == len(how) - 2 * len(turns):
                before = [tally_of(replay) for replay in replays_of(memory)]
            with memory.step():
                step(it, batches, number)
            if budget != "80%" and memory.last_peak_bytes is not None:
                assert memory.last_peak_bytes <= 560 * KIB
        replays = replays_of(memory)
        assert len(replays) == 2, memory.summary()
        assert " calls, 1 update [" in memory.summary()
        replayed = []
        for then, now in zip(before, map(tally_of, replays), strict=True):
            assert now[1:] == then[1:], "each of the last steps follows its plan"
            replayed.append(now[0] - then[0])
        assert sorted(replayed) == sorted(2 * turns.count(batches) for batches in (1, 2))
    assert_same_training(it, plainly(how))


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_second_run_has_both_plans_and_needs_to_hear_the_rhythm_only(tmp_path: Path) -> None:
    for steps in (16, 4):
        it, how = trained(), (2, 1) * steps
        with within(it, 560 * KIB, tmp_path) as memory:
            for number, batches in enumerate(how):
                memory.wait_for_plans()
                with memory.step():
                    step(it, batches, number)
        assert_same_training(it, plainly(how))
    assert memory.tally[Way.REPLAYED] == len(how)
    assert sum(replay.left_plan for replay in replays_of(memory)) == 2, "before it was heard"


ORDERS = {
    "in turn": (1, 2) * 12,
    "seldom": (*(1,) * 12, 2) * 2,
    "at random": tuple(random.Random(3).choices((1, 2), weights=(3, 1), k=30)),
    "the one that does not fit comes late": (*(1,) * 20, 2, 1, 1, 2, 1, 1, 1, 2, 1),
}


@pytest.mark.parametrize("how", ORDERS.values(), ids=ORDERS)
def test_one_that_fits_is_no_reason_to_let_the_other_run_over_the_budget(
    how: tuple[int, ...], tmp_path: Path
) -> None:
    """Only a step of a kind that nobody has seen is not stopped; that is said."""
    it = trained()
    free = []
    with (
        warnings.catch_warnings(record=True) as said,
        within(it, between_bytes(), tmp_path) as memory,
    ):
        warnings.simplefilter("always")
        for number, batches in enumerate(how):
            memory.wait_for_plans()
            with memory.step():
                step(it, batches, number)
            if memory.last_peak_bytes is None:
                free.append((number, batches))
            else:
                assert memory.last_peak_bytes <= between_bytes()
    over = [number for number, batches in free if batches == 2]
    told = [str(one.message) for one in said if "and ran resident" in str(one.message)]
    assert len(told) == len(over) <= 1
    assert all(2 not in how[:number] for number in over)
    if how is ORDERS["in turn"]:
        assert len(free) >= 4, "what fits is left alone where it is foreseen"
    assert_same_training(it, plainly(how))


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_second_run_asks_again_which_of_them_it_is_that_fits(tmp_path: Path) -> None:
    """The folder has the profile of the one that fits; the first step of this run is the other."""
    for how in ((1,) * 12, (2, 1) * 6):
        it = trained()
        with within(it, between_bytes(), tmp_path) as memory:
            for number, batches in enumerate(how):
                memory.wait_for_plans()
                with memory.step():
                    step(it, batches, number)
                assert batches == 1 or memory.last_peak_bytes is not None
        assert_same_training(it, plainly(how))


@cache
def recorded() -> ProfileSet:
    it = trained()
    return recorded_courses(it, lambda number: step(it, 1 + number % 2, number), 2)


@cache
def plans() -> PlanSet:
    return planned_courses(recorded(), 0.7)


def test_both_are_recorded_into_one_file() -> None:
    first, second = recorded().courses
    assert first.course == f"model(float32[{ROWS}x{WIDTH}])"
    assert second.course.startswith(f"{first.course} with ")
    for entry in (first, second):
        batches = 1 if entry.profile.peak_bytes < between_bytes() else 2
        alone = profile_of(batches)
        assert [slot.anchor for slot in entry.profile.slots] == [s.anchor for s in alone.slots]
    assert len(first.profile.slots) != len(second.profile.slots)


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_file_has_a_plan_for_each(tmp_path: Path) -> None:
    write_plan_set(plans(), tmp_path / "x.plans.json")
    it, how = trained(), (2, 1) * 8
    with runtime.load_courses(tmp_path / "x.plans.json").attach(it.model, it.optimizer) as memory:
        for number, batches in enumerate(how):
            with memory.step():
                step(it, batches, number)
            assert (memory.last_peak_bytes or 0) <= plans().budget_bytes
        assert [course.steps for course in memory.courses.values()] != [len(how), 0]
        assert sum(replay.left_plan for replay in replays_of(memory)) == 2, "before it was heard"
        assert sum(replay.fallbacks for replay in replays_of(memory)) == 0
    assert_same_training(it, plainly(how))


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_the_proof_of_both_passes() -> None:
    def build() -> Workload:
        it = trained()

        def one_step() -> torch.Tensor:
            step(it, 1 + len(it.losses) % 2, len(it.losses))
            return torch.tensor(it.losses[-1])

        return Workload(model=it.model, optimizer=it.optimizer, step=one_step)

    report = prove_courses(plans(), build=build, steps=10)
    assert report.failures == ()
    assert min(course.steps for course in report.courses) >= 3
