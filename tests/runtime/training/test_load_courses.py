"""Plans of several courses from one file: each step takes the one that is for it."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

import runtime
from planner.plan.plan_set import PlanSet, write_plan_set
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.profile import CPU
from profiles.schema.profile_set import ProfileSet
from runtime.training.course import Way
from runtime.training.load_courses import LoadedCourses
from tests.support.loops.courses import planned_courses, recorded_courses
from tests.support.loops.loop import Trained, assert_same_training, layers
from tests.support.training.models import seeded

WIDTH = 64
ROWS = (256, 224, 192)
SHARE = 0.6


def trained(width: int = WIDTH) -> Trained:
    torch.manual_seed(0)
    model = layers(4, width)
    return Trained(model=model, optimizer=torch.optim.AdamW(model.parameters(), foreach=False))


def step(it: Trained, number: int, rows: int) -> None:
    batch = torch.randn(rows, WIDTH, generator=seeded(number))
    loss = (it.model(batch) - batch).square().mean()
    loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    it.losses.append(loss.item())


@cache
def recorded() -> ProfileSet:
    it = trained()
    return recorded_courses(it, lambda n: step(it, n, ROWS[n % len(ROWS)]), len(ROWS))


@cache
def plans() -> PlanSet:
    return planned_courses(recorded(), SHARE)


def run(it: Trained, rows: Sequence[int], file: Path) -> runtime.PlannedTraining:
    write_plan_set(plans(), file)
    with runtime.load_courses(file).attach(it.model, it.optimizer) as memory:
        for number, count in enumerate(rows):
            with memory.step():
                step(it, number, count)
            if next(it.model.parameters()).device.type == CPU:
                assert (memory.last_peak_bytes or 0) <= plans().budget_bytes
    plainly = trained()
    for number, count in enumerate(rows):
        step(plainly, number, count)
    assert_same_training(it, plainly)
    return memory


@pytest.mark.parametrize(
    "rows", [ROWS * 4, (256, 256, 192, 256, 224, 224, 192, 192)], ids=["in turn", "at random"]
)
@pytest.mark.filterwarnings("error::runtime.FallbackWarning")
def test_each_step_follows_the_plan_of_its_course(rows: tuple[int, ...], tmp_path: Path) -> None:
    memory = run(trained(), rows, tmp_path / "x.plans.json.gz")
    assert memory.tally[Way.REPLAYED] == len(rows)
    for course in memory.courses.values():
        assert course.replay is not None
        assert (course.replay.fallbacks, course.replay.left_plan) == (0, 0)
    assert f"{len(rows)} replayed; 0 fell back" in memory.summary()


def test_a_course_without_a_plan_is_swapped_on_line_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "swapplan"):
        memory = run(trained(), (256, 100, 224, 100, 256), tmp_path / "x.plans.json")
    assert (memory.tally[Way.REPLAYED], memory.tally[Way.UNPLANNED]) == (3, 2)
    (said,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert said.startswith("model(float32[100x64]) is swapped on line: the file has no plan for it")


def test_plans_of_another_model_are_refused_and_nothing_stays_attached(tmp_path: Path) -> None:
    other = trained(WIDTH // 2)
    write_plan_set(plans(), tmp_path / "x.plans.json")
    loaded = runtime.load_courses(tmp_path / "x.plans.json")
    with pytest.raises(PlanMismatchError, match="The plan is for another model"):
        loaded.attach(other.model, other.optimizer)
    assert not any(module._forward_pre_hooks for module in other.model.modules())


def test_data_parallel_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    it = trained()
    monkeypatch.setattr("runtime.training.load_courses.agreement_of", lambda _: object())
    with pytest.raises(WorkloadError, match="are for one process"):
        LoadedCourses(plans()).attach(it.model, it.optimizer)
