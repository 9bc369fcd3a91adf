"""A loop within a budget: several courses, a budget in bytes from the first step on, mishaps."""

import logging
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import runtime
from profiles.hooks.named_storages import owned_storages
from profiles.schema.errors import CapacityError, FileError, QuantityError
from runtime.storage.residency import TrackedStorage
from runtime.training.course import Way
from runtime.training.planned_training import PlannedTraining
from runtime.training.planning import Planning
from tests.support.commands import ROOT
from tests.support.loops import plain
from tests.support.loops.loop import TIME_LIMIT_S, Settings, Trained, assert_same_training, layers
from tests.support.training.models import seeded

KIB = 1024
ROWS, WIDTH = 256, 64


@pytest.fixture
def budgeted() -> Iterator[list[str]]:
    """Fails at any warning that a step took more than its budget, or fell back."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", runtime.FallbackWarning)
        yield []


def trained() -> Trained:
    torch.manual_seed(0)
    model = layers(4, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    return Trained(model=model, optimizer=optimizer)


def step(it: Trained, rows: int = ROWS, number: int = 0) -> None:
    batch = torch.randn(rows, WIDTH, generator=seeded(number))
    loss = (it.model(batch) - batch).square().mean()
    loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    it.losses.append(loss.item())


def resident(rows: list[int]) -> Trained:
    it = trained()
    for number, count in enumerate(rows):
        step(it, count, number)
    return it


def within(it: Trained, budget: str | int, plans: Path, most: int = 4) -> PlannedTraining:
    return runtime.within(
        *(it.model, it.optimizer),
        budget=budget,
        plans=plans,
        time_limit_s=TIME_LIMIT_S,
        most_plans=most,
    )


def run(
    it: Trained, rows: list[int], *, budget: str, plans: Path, waits: bool = True, most: int = 4
) -> PlannedTraining:
    """Trains within a budget; without waiting, plans come when they come."""
    with within(it, budget, plans, most) as memory:
        for number, count in enumerate(rows):
            if waits:
                memory.wait_for_plans()
            with memory.step():
                step(it, count, number)
    return memory


def test_lengths_that_vary_have_a_plan_each_and_keep_to_the_budget(
    tmp_path: Path, budgeted: list[str]
) -> None:
    expected = plain.variable_lengths(None)
    found = plain.variable_lengths(Settings(budget="700KiB", plans=tmp_path))
    assert_same_training(found, expected)
    memory = found.memory
    assert memory is not None
    assert len(memory.courses) == 3
    assert sum(course.replay is not None for course in memory.courses.values()) <= 3
    assert sum(memory.tally.values()) == 40
    assert memory.tally[Way.REPLAYED] > 0
    assert memory.tally[Way.UNPLANNED] == 0


def test_a_step_that_does_not_fit_keeps_to_the_budget_from_the_first_on(
    tmp_path: Path, budgeted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model and its states alone are larger than the budget; what moves between two steps has
    to keep to it, too."""
    it = trained()
    budget_bytes = 160 * KIB
    most_bytes = 0
    swap_in = TrackedStorage.swap_in

    def counted(tracked: TrackedStorage, lane: object) -> None:
        nonlocal most_bytes
        swap_in(tracked, lane)  # type: ignore[arg-type]
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            owned = owned_storages(it.model, it.optimizer)
            sizes = {o.storage._cdata: o.storage.nbytes() for o in owned}
        most_bytes = max(most_bytes, sum(sizes.values()))

    rows = [16, 16, 24] * 10
    monkeypatch.setattr(TrackedStorage, "swap_in", counted)
    with within(it, budget_bytes, tmp_path) as memory:
        for number, count in enumerate(rows):
            memory.wait_for_plans()
            with memory.step():
                step(it, count, number)
        most_bytes_while_training = most_bytes
    at_the_end = sum(value.nbytes for value in it.tensors().values())
    assert at_the_end > budget_bytes
    # Made only now: what the loop's variables reach is on the device, too.
    assert_same_training(it, resident(rows))
    assert memory.tally[Way.REPLAYED] > 0
    assert memory.tally[Way.UNPLANNED] == 0
    assert 0 < most_bytes_while_training <= budget_bytes
    assert most_bytes > budget_bytes, "closing it brings back all there is"


def accumulated(it: Trained, batches: int, number: int) -> None:
    random = seeded(number)
    for _ in range(batches):
        batch = torch.randn(ROWS, WIDTH, generator=random)
        loss = (it.model(batch) - batch).square().mean()
        loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    it.losses.append(loss.item())


def test_a_step_begun_by_a_callback_keeps_none_of_its_variables(
    tmp_path: Path, budgeted: list[str]
) -> None:
    """While it is recorded, replayed, swapped on line or resident."""
    it, ways, lives_on = trained(), set(), []
    with within(it, 400 * KIB, tmp_path) as memory:
        for number in range(14):
            if number > 10:
                memory.wait_for_plans()
            batch = torch.randn(ROWS if number % 5 else ROWS // 2, WIDTH)
            dropped = weakref.ref(batch)
            running = entered(memory, batch)
            loss = it.model(batch).square().mean()
            del batch
            loss.backward()
            lives_on.append(dropped() is not None)
            it.optimizer.step()
            it.optimizer.zero_grad()
            running.__exit__(None, None, None)
            ways |= {way for way, count in memory.tally.items() if count}
        assert {Way.RECORDED, Way.REPLAYED} <= ways
    assert not any(lives_on)


def entered(memory: PlannedTraining, batch: torch.Tensor) -> AbstractContextManager[None]:
    """Begins a step as a callback does that is handed the batch."""
    running = memory.step()
    assert len(batch)
    running.__enter__()
    return running


def test_a_step_that_leaves_its_course_keeps_to_the_budget(tmp_path: Path) -> None:
    """The last update of an epoch has what is left. It begins as the others do."""
    it, how = trained(), [2] * 11 + [1, 2] * 2
    with (
        pytest.warns(
            runtime.FallbackWarning, match="left the plan and was swapped on line"
        ) as said,
        within(it, 560 * KIB, tmp_path) as memory,
    ):
        for number, batches in enumerate(how):
            memory.wait_for_plans()
            with memory.step():
                accumulated(it, batches, number)
        (course,) = memory.courses.values()
        assert course.replay is not None
        assert (course.replay.fallbacks, course.replay.left_plan) == (0, 2)
        assert max(step.peak_bytes or 0 for step in course.replay.steps) <= 560 * KIB
        assert "0 fell back to resident, 2 left their plan" in memory.summary()
    assert len([one for one in said if one.category is runtime.FallbackWarning]) == 1
    # Made only now: on an accelerator it would count, too.
    plainly = trained()
    for number, batches in enumerate(how):
        accumulated(plainly, batches, number)
    assert_same_training(it, plainly)


OVERFLOWS = (11, 13, 14)


def torch_alone(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    scaler.step(optimizer)
    scaler.update()


def accelerated(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """As `accelerate` does with fp16, which its `Accelerator` has on no CPU."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True)
    accelerate.optimizer.AcceleratedOptimizer(optimizer, False, scaler).step()


Update = Callable[[torch.optim.Optimizer, torch.amp.GradScaler], None]


def scaled(update: Update, plans: Path | None) -> tuple[Trained, PlannedTraining | None]:
    """As half precision is trained: a scaler skips updates; weights are averaged all the same."""
    it, scaler = trained(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    averaged = torch.optim.swa_utils.AveragedModel(it.model)
    with nullcontext() if plans is None else within(it, "60%", plans) as memory:
        for number in range(17):
            if memory is not None:
                memory.wait_for_plans()
            with nullcontext() if memory is None else memory.step():
                batch = torch.randn(ROWS, WIDTH, generator=seeded(number))
                loss = (it.model(batch) - batch).square().mean()
                factor = torch.inf if number in OVERFLOWS else 1.0
                scaler.scale(loss * factor).backward()
                scaler.unscale_(it.optimizer)
                nn.utils.clip_grad_norm_(it.model.parameters(), 1.0)
                update(it.optimizer, scaler)
                averaged.update_parameters(it.model)
                it.optimizer.zero_grad()
                it.losses.append(loss.item())
    it.losses += [next(averaged.parameters()).sum().item(), scaler.get_scale()]
    return it, memory


@pytest.mark.parametrize("update", [torch_alone, accelerated])
def test_updates_that_a_scaler_skips_follow_the_plan(
    update: Update, tmp_path: Path, budgeted: list[str]
) -> None:
    it, memory = scaled(update, tmp_path)
    expected, _ = scaled(update, None)
    assert_same_training(it, expected)
    assert memory is not None
    (course,) = memory.courses.values()
    assert course.replay is not None
    assert (course.replay.left_plan, course.replay.shortcuts) == (0, len(OVERFLOWS))
    budget_bytes = max(step.peak_bytes or 0 for step in course.replay.steps if not step.shortcut)
    assert max(step.peak_bytes or 0 for step in course.replay.steps) == budget_bytes
    assert "0 fell back to resident, 3 skipped an update." in memory.summary()


def test_the_second_run_begins_planned(tmp_path: Path, budgeted: list[str]) -> None:
    rows = [ROWS] * 12
    expected = resident(rows)
    for run_number in range(2):
        it = trained()
        memory = run(it, rows, budget="80%", plans=tmp_path)
        assert_same_training(it, expected)
        assert (memory.tally[Way.RECORDED] == 0) is (run_number == 1)
    assert memory.tally[Way.REPLAYED] == 12


def test_what_fits_is_left_alone(tmp_path: Path, budgeted: list[str]) -> None:
    it = trained()
    memory = run(it, [ROWS] * 10, budget="1GiB", plans=tmp_path)
    (course,) = memory.courses.values()
    assert course.way is Way.RESIDENT
    assert not list(tmp_path.glob("*.plan.json"))
    assert_same_training(it, resident([ROWS] * 10))


def test_training_goes_on_while_another_process_plans(tmp_path: Path, budgeted: list[str]) -> None:
    it = trained()
    memory = within(it, "80%", tmp_path)
    number = 0
    with memory:
        while memory.tally[Way.REPLAYED] == 0 and number < 5000:
            with memory.step():
                step(it, ROWS, number)
            number += 1
    assert memory.tally[Way.PLANNED_FOR] > 0
    assert_same_training(it, resident([ROWS] * number))


def test_a_planner_that_is_killed_leaves_training_without_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = Planning.__init__

    def killed(self: Planning, *arguments: object) -> None:
        start(self, *arguments)  # type: ignore[arg-type]
        self._process.kill()

    monkeypatch.setattr(Planning, "__init__", killed)
    it = trained()
    memory = run(it, [ROWS] * 12, budget="80%", plans=tmp_path)
    assert memory.tally[Way.UNPLANNED] > 0
    assert_same_training(it, resident([ROWS] * 12))
    (line,) = [r.getMessage() for r in caplog.records if "without a plan" in r.getMessage()]
    assert "exit code -9" in line
    assert "\n" not in line


def test_a_damaged_plan_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(trained(), [ROWS] * 12, budget="80%", plans=tmp_path)
    (plan,) = tmp_path.glob("*.plan.json")
    plan.write_text(plan.read_text()[:-100])
    it = trained()
    memory = run(it, [ROWS] * 12, budget="80%", plans=tmp_path)
    assert [r.levelno for r in caplog.records if "passed over" in r.getMessage()] == [
        logging.WARNING
    ]
    assert memory.tally[Way.REPLAYED] > 0
    assert_same_training(it, resident([ROWS] * 12))


def test_a_model_that_has_changed_gets_a_plan_of_its_own(tmp_path: Path) -> None:
    run(trained(), [ROWS] * 12, budget="80%", plans=tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(*layers(4, WIDTH), nn.Linear(WIDTH, WIDTH))
    it = Trained(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    memory = run(it, [ROWS] * 12, budget="80%", plans=tmp_path)
    assert memory.tally[Way.RECORDED] > 0
    assert memory.tally[Way.REPLAYED] > 0
    assert len(list(tmp_path.glob("*.plan.json"))) == 2


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tests.runtime.training.test_within import *;"
        f"it = trained(); plans = Path({str(tmp_path)!r});"
        "memory = run(it, [ROWS] * 24, budget='80%', plans=plans);"
        "assert_same_training(it, resident([ROWS] * 24)); print(memory.tally[Way.REPLAYED])"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(int(words) > 0 for words in said)


def test_an_exception_in_a_step_is_the_users_and_training_goes_on(tmp_path: Path) -> None:
    it = trained()
    with within(it, "80%", tmp_path) as memory:
        for number in range(20):
            memory.wait_for_plans()
            raised = number in (1, 3, 6, 14)
            expected = pytest.raises(ValueError, match=r"^mine$") if raised else nullcontext()
            with expected, memory.step():
                step(it, ROWS, number)
                if raised:
                    raise ValueError("mine")
    assert memory.tally[Way.REPLAYED] > 0
    assert_same_training(it, resident([ROWS] * 20))


def test_steps_cannot_be_nested_nor_follow_the_end(tmp_path: Path) -> None:
    it = trained()
    memory = within(it, "80%", tmp_path)
    with memory.step(), pytest.raises(RuntimeError, match="cannot be nested"), memory.step():
        pass
    memory.close()
    memory.close()
    with pytest.raises(RuntimeError, match="closed"), memory.step():
        pass
    assert not any(module._forward_pre_hooks for module in it.model.modules())


def whole(model: nn.Sequential) -> nn.Module:
    return cast("nn.Module", torch.compile(model, backend="aot_eager"))


def regions(model: nn.Sequential) -> nn.Module:
    model[0].compile(backend="aot_eager")
    model[2].compile(backend="aot_eager")
    return model


def checkpointing(model: nn.Sequential) -> nn.Module:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            for number in range(0, len(model), 4):
                block = model[number : number + 4]
                rows = checkpoint(block, rows, use_reentrant=False)
            return rows

    return Checkpointed()


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("change", [whole, regions, checkpointing])
def test_what_torch_does_with_a_model_may_be_done_before(
    change: Callable[[nn.Sequential], nn.Module], tmp_path: Path
) -> None:
    found = []
    for within in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = change(layers(4, WIDTH))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found.append(Trained(model=model, optimizer=optimizer))
        if within:
            memory = run(found[1], [ROWS] * 14, budget="90%", plans=tmp_path)
            assert memory.tally[Way.REPLAYED] > 0
        else:
            for number in range(14):
                step(found[0], ROWS, number)
    assert_same_training(found[1], found[0])


def test_a_model_that_no_step_calls_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it, other = trained(), trained()
    with within(it, "80%", tmp_path) as memory:
        for number in range(5):
            with memory.step():
                step(other, ROWS, number)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith("3 steps called no module")


def test_a_folder_that_goes_away_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it, plans = trained(), tmp_path / "plans"
    with within(it, "80%", plans) as memory:
        plans.rmdir()
        for number in range(12):
            with memory.step():
                step(it, ROWS, number)
    assert memory.tally[Way.UNPLANNED] > 0
    assert_same_training(it, resident([ROWS] * 12))
    assert [r for r in caplog.records if "without a plan" in r.getMessage()]


def test_a_step_without_a_forward_is_no_course(tmp_path: Path) -> None:
    it = trained()
    memory = within(it, "80%", tmp_path)
    with memory, memory.step():
        it.optimizer.zero_grad()
    assert memory.courses == {}
    assert "0 steps within 80%: none yet" in memory.summary()


def test_no_more_courses_are_planned_than_wanted(tmp_path: Path) -> None:
    rows = [128] * 10 + [256] * 10
    it = trained()
    memory = run(it, rows, budget="80%", plans=tmp_path, most=1)
    assert [course.way for course in memory.courses.values()] == [Way.REPLAYED, Way.UNPLANNED]
    assert "1 courses have plans already" in memory.summary()
    assert_same_training(it, resident(rows))


@pytest.mark.parametrize(
    ("budget", "error", "words"),
    [
        ("lots", QuantityError, "budget is 'lots'"),
        ("-3", QuantityError, "budget is '-3'"),
        pytest.param(
            *("fits", CapacityError, r"no capacity of its own.*budget='300MiB'"),
            marks=pytest.mark.cpu_only,
        ),
    ],
)
def test_a_budget_that_is_none_is_refused(
    budget: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    it = trained()
    with pytest.raises(error, match=words):
        runtime.within(it.model, it.optimizer, budget=budget, plans=tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    it = trained()
    with pytest.raises(FileError, match=r"folder of plans .* cannot be made"):
        runtime.within(it.model, it.optimizer, budget="80%", plans=tmp_path / "file" / "plans")


def test_an_unknown_link_is_refused(tmp_path: Path) -> None:
    it = trained()
    with pytest.raises(QuantityError, match="pcie9"):
        runtime.within(it.model, it.optimizer, budget="80%", plans=tmp_path, link="pcie9")
