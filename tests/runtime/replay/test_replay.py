"""Real training under the hardest plan: equal bit by bit, within the budget, whatever happens."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.plan_file import write_plan
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError, WorkloadError
from profiles.schema.profile import CPU
from runtime import EmulatedOutOfMemoryError, FallbackWarning, LoadedPlan, Replay, load
from runtime.lanes import emulated as lanes
from runtime.proof.proof import prove
from runtime.storage.residency import TrackedStorage
from tests.support.planning.hardest_plans import everything_away
from tests.support.training import models
from tests.support.training.beside import beside_another
from tests.support.training.failing_copy import FailingCopy
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import (
    assert_all_resident,
    assert_same,
    everything_away_plan,
    snapshot,
)


@pytest.mark.parametrize("name", BUILDERS)
def test_training_is_bit_equal_within_the_budget(name: str) -> None:
    plan = everything_away_plan(name)
    assert plan.swaps
    report = prove(plan, build=BUILDERS[name], steps=3, timed_steps=1)
    assert report.losses_equal
    assert report.tensors_equal
    assert report.tensors_compared >= 3
    assert (report.misses, report.fallbacks, report.warnings) == (0, 0, ())
    assert report.out_of_memory_without_plan
    assert "out of memory" in report.out_of_memory_message
    # Memory is a fact of program order: it is predicted to the byte, where storages are all of it.
    assert report.peak_without_bytes == plan.certificate.peak_without_bytes
    assert plan.certificate.peak_bytes == plan.budget_bytes
    assert report.peak_with_bytes <= plan.budget_bytes
    if plan.device.kind == CPU:
        assert report.peak_with_bytes == plan.budget_bytes
    assert report.d2h_bytes == report.h2d_bytes == plan.certificate.d2h_bytes
    assert report.passed


def test_every_class_of_storage_moves() -> None:
    plan = everything_away_plan("kept_gradients")
    moved = {plan.storage(swap.storage).kind.value for swap in plan.swaps}
    assert moved >= {"activation", "parameter", "gradient", "optimizer_state"}
    plan = everything_away_plan("resnet")
    moved = {plan.storage(swap.storage).kind.value for swap in plan.swaps}
    assert "buffer" in moved


@contextmanager
def attached(name: str) -> Iterator[tuple[Workload, Replay]]:
    """A workload under the hardest plan."""
    workload = BUILDERS[name]()
    plan = beside_another(everything_away_plan(name))
    replay = Replay(plan, workload.model, workload.optimizer)
    with replay:
        yield workload, replay


class Interruption(Exception):
    """Raised inside a step on purpose."""


# A backward hook on a module adds a node to the graph: that step is not the planned one.
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize("where", ["grad:", "unpack:", "pack:", "pre:", "optimizer:pre"])
def test_an_exception_inside_the_step_leaves_everything_resident(where: str) -> None:
    plain = BUILDERS["unet3d"]()
    with attached("unet3d") as (workload, replay):
        for one in (plain, workload):
            one.step()
        interrupted(plain, where)
        with pytest.raises(Interruption), replay.step():
            interrupted_step(workload, where)
        assert_all_resident(workload)
        assert_same(snapshot(plain), snapshot(workload))
        plain.step()
        with replay.step() as statistics:
            workload.step()
        assert statistics.fallback is None
        assert_same(snapshot(plain), snapshot(workload))


@pytest.fixture
def _ctrl_c_is_heard() -> Iterator[None]:
    """A job of a shell's background starts with the key ignored, and its children do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("where", ["forward", "backward", "between"])
def test_ctrl_c_leaves_everything_resident_and_hangs_nothing(plan: Plan, where: str) -> None:
    """The main thread answers the key wherever it is, with copies in flight on both lanes."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    press = partial(signal.raise_signal, signal.SIGINT)
    last = list(workload.model.parameters())[-3]
    for one in (plain, workload):
        one.step()
    before = snapshot(plain)
    replay = Replay(plan, workload.model, workload.optimizer)
    handle = {
        "forward": lambda: workload.model.get_submodule("4").register_forward_hook(
            lambda *_: press()
        ),
        "backward": lambda: last.register_hook(lambda _: press()),
        "between": lambda: workload.optimizer.register_step_pre_hook(lambda *_: press()),
    }[where]()
    with pytest.raises(KeyboardInterrupt), replay.step():
        workload.step()
    handle.remove()
    replay.close()
    assert_all_resident(workload)
    assert_same(before, snapshot(workload))


def test_after_an_exception_in_backward_training_goes_on(plan: Plan) -> None:
    """Torch keeps what a failed backward had still to do, for which the next step has no room."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for number in range(6):
            fails = number in (2, 4)
            for one in (plain, workload):
                parameters = list(one.model.parameters())
                at = parameters[0 if number == 4 else -2]
                handle = at.register_hook(stopping if fails else torch.clone)
                try:
                    with replay.step() if one is workload else nullcontext():
                        one.step()
                    assert not fails
                except Interruption:
                    assert fails
                handle.remove()
    assert_same(snapshot(plain), snapshot(workload))


def stopping(_: torch.Tensor) -> torch.Tensor:
    raise Interruption


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_fallback_before_anything_is_away_lifts_the_budget(plan: Plan) -> None:
    """The rest of the step needs what it needs without a plan."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for number in range(3):
            for one in (plain, workload):
                with replay.step() if one is workload else nullcontext():
                    if one is workload and number != 1:
                        stepper = replay._stepper
                        assert stepper._step is not None
                        stepper.departure.fall_back(stepper._step, "it was asked to")
                    one.step()
    first, second, third = replay.steps
    assert (first.fallback is None, second.fallback, third.fallback is None) == (False, None, False)
    if plan.device.kind == CPU:
        assert (third.peak_bytes or 0) > plan.budget_bytes
    assert_same(snapshot(plain), snapshot(workload))


def test_a_step_of_a_closed_replay_is_an_error(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    replay = Replay(plan, workload.model, workload.optimizer)
    with replay.step():
        workload.step()
    replay.close()
    with pytest.raises(RuntimeError, match="closed"), replay.step():
        workload.step()
    replay.close()
    assert_all_resident(workload)


def test_a_replay_may_be_closed_inside_a_step(plan: Plan) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    replay = Replay(plan, workload.model, workload.optimizer)
    handle = workload.model.get_submodule("4").register_forward_hook(lambda *_: replay.close())
    with replay.step() as statistics:
        workload.step()
    handle.remove()
    plain.step()
    assert statistics.fallback == "the replay was closed inside the step"
    assert_all_resident(workload)
    assert_same(snapshot(plain), snapshot(workload))
    with pytest.raises(RuntimeError, match="closed"), replay.step():
        pass


@pytest.mark.cpu_only
@pytest.mark.parametrize("direction", list(Direction))
def test_a_lane_that_fails_makes_the_step_fall_back(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        with monkeypatch.context() as patch:
            patch.setattr(lanes, "_copy_bytes", FailingCopy(direction, 1))
            plain.step()
            with pytest.warns(FallbackWarning, match="no such memory"), replay.step():
                workload.step()
        plain.step()
        with replay.step() as statistics:
            workload.step()
        assert statistics.fallback is None
    assert_same(snapshot(plain), snapshot(workload))


@pytest.mark.cpu_only
@pytest.mark.parametrize("direction", list(Direction))
def test_a_lane_that_fails_in_the_first_step_costs_no_numbers(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with monkeypatch.context() as patch:
            patch.setattr(lanes, "_copy_bytes", FailingCopy(direction, 1))
            make_states(replay, workload, plain)
        make_states(replay, workload, plain)
    assert [step.on_line for step in replay.steps] == [True, False]
    assert_same(snapshot(plain), snapshot(workload))


def interrupted(workload: Workload, where: str) -> None:
    with pytest.raises(Interruption):
        interrupted_step(workload, where)


def interrupted_step(workload: Workload, where: str) -> None:
    """A step that raises in the middle of the work that anchors of one kind stand for."""

    def stop(*_: object) -> None:
        raise Interruption

    parameter = list(workload.model.parameters())[-3]
    last = [module for module in workload.model.modules() if not list(module.children())][-1]
    handles = {
        "grad:": lambda: parameter.register_post_accumulate_grad_hook(stop),
        "unpack:": lambda: last.register_full_backward_pre_hook(stop),
        "pack:": lambda: last.register_forward_hook(stop),
        "pre:": lambda: last.register_forward_pre_hook(stop),
        "optimizer:pre": lambda: workload.optimizer.register_step_pre_hook(stop),
    }
    handle = handles[where]()
    try:
        workload.step()
    finally:
        handle.remove()


def perceptron_training(rows: list[int], *, seed: int = 1) -> Workload:
    """Trains on batches of the given sizes, one after the other."""
    torch.manual_seed(0)
    model = models.perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    sizes = iter(rows)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        inputs = torch.rand(next(sizes), 192, generator=generator)
        loss = functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


SAME = [512] * 40
"""More steps than any test or recording takes."""


def perceptron_plan() -> Plan:
    profile = record_at_fixed_times(perceptron_training(SAME))
    return beside_another(everything_away(profile))


@pytest.fixture(scope="module", name="plan")
def _plan() -> Plan:
    return perceptron_plan()


def test_a_changed_batch_size_falls_back_and_the_next_step_replays(plan: Plan) -> None:
    rows = [512, 512, 128, 1024, 512]
    plain, workload = perceptron_training(rows), perceptron_training(rows)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with pytest.warns(
            FallbackWarning, match=r"fell back to resident: .*bytes, planned"
        ) as told:
            for _ in rows:
                plain.step()
                with replay.step():
                    workload.step()
        assert len(told) == 1, "told once"
        fallbacks = [step.fallback for step in replay.steps]
        assert [reason is None for reason in fallbacks] == [True, True, False, False, True]
        assert_same(snapshot(plain), snapshot(workload))


def test_evaluation_between_steps_finds_everything(plan: Plan) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    probe = torch.rand(7, 192)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(3):
            plain.step()
            with replay.step() as statistics:
                workload.step()
            assert statistics.fallback is None
            with torch.no_grad():
                assert torch.equal(plain.model(probe), workload.model(probe))
            loss = workload.model(probe).sum()
            loss.backward()
            workload.optimizer.zero_grad()


def make_states(replay: Replay, workload: Workload, *plain: Workload) -> None:
    """The first step, which makes what the plan moves; the untouched training makes one, too."""
    with replay.step():
        workload.step()
    for other in plain:
        other.step()


def test_evaluation_inside_the_step_falls_back(plan: Plan) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    probe = torch.rand(7, 192)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        plain.step()
        with pytest.warns(FallbackWarning), replay.step() as statistics:
            with torch.no_grad():
                before = workload.model(probe)
            workload.step()
        assert statistics.fallback is not None
        assert_same(snapshot(plain), snapshot(workload))
        assert before.shape == (7, 1)


def test_state_dict_inside_the_step_is_whole(plan: Plan) -> None:
    """What is away comes back when its numbers are asked for, not when the state_dict is."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    whole: list[bool] = []

    def numbers_of(training: Workload) -> list[Any]:
        # Compared as lists: tensors of the test would count as the step's own memory.
        weights = training.model.state_dict().values()
        states = training.optimizer.state_dict()["state"].values()
        return [t.tolist() for t in (*weights, *(t for state in states for t in state.values()))]

    def save(*_: object) -> None:
        whole.append(numbers_of(workload) == expected)

    with Replay(plan, workload.model, workload.optimizer) as replay:
        for is_first in (True, False):
            expected = numbers_of(plain)
            handle = workload.model.get_submodule("4").register_forward_hook(save)
            plain.step()
            said = nullcontext() if is_first else pytest.warns(FallbackWarning, match="no op")
            with said, replay.step():
                workload.step()
            handle.remove()
            assert whole.pop()
            assert_same(snapshot(plain), snapshot(workload))
        plain.step()
        with replay.step() as statistics:
            workload.step()
        assert statistics.fallback is None
        before = {k: v.clone() for k, v in plain.model.state_dict().items()}
        workload.model.load_state_dict(before)
        plain.model.load_state_dict(before)
        assert_same(snapshot(plain), snapshot(workload))


@pytest.mark.parametrize("how", ["of the optimizer", "in the place of what was there"])
def test_loading_what_replaces_tensors_inside_the_step_falls_back(plan: Plan, how: str) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)

    def load(training: Workload) -> None:
        if how == "of the optimizer":
            training.optimizer.load_state_dict(training.optimizer.state_dict())
        else:
            layer = training.model.get_submodule("4")
            layer.load_state_dict(layer.state_dict(), assign=True)

    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        for training in (plain, workload):
            training.model.get_submodule("0").register_forward_hook(
                lambda *_, training=training: load(training)
            )
        plain.step()
        with pytest.warns(FallbackWarning, match="a state_dict was"), replay.step():
            workload.step()
        assert_same(snapshot(plain), snapshot(workload))


def test_an_op_that_asks_for_an_absent_storage_gets_it(plan: Plan) -> None:
    """No anchor announces this read; only the watch can know, before the op runs."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    sums: list[torch.Tensor] = []

    def read_all(*_: object) -> None:
        sums.append(torch.stack([p.detach().sum() for p in workload.model.parameters()]))

    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        expected = torch.stack([p.detach().sum() for p in plain.model.parameters()])
        handle = workload.model.get_submodule("6").register_forward_hook(read_all)
        plain.step()
        with pytest.warns(FallbackWarning, match="has away"), replay.step() as statistics:
            workload.step()
        handle.remove()
    assert statistics.misses >= 1
    assert torch.equal(sums[0], expected)
    assert_same(snapshot(plain), snapshot(workload))


def test_a_step_without_the_optimizer_falls_back(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with replay.step():
            workload.step()
        before = snapshot(workload)
        with pytest.warns(FallbackWarning, match="'end'"), replay.step():
            inputs = torch.rand(512, 192)
            loss = functional.mse_loss(workload.model(inputs), inputs.mean(dim=1, keepdim=True))
            loss.backward()
        assert_all_resident(workload)
        assert_same(before, snapshot(workload))


def test_a_graph_dropped_before_backward_is_let_go(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload)
        with pytest.warns(FallbackWarning), replay.step():
            workload.model(torch.rand(512, 192))
        assert_all_resident(workload)
        with replay.step() as statistics:
            workload.step()
        assert statistics.fallback is None


def test_a_graph_from_an_earlier_step_gives_right_gradients(plan: Plan) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    probe = torch.rand(512, 192)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        expected = torch.autograd.grad(plain.model(probe).sum(), list(plain.model.parameters()))
        with pytest.warns(FallbackWarning), replay.step():
            out = workload.model(probe).sum()
        found = torch.autograd.grad(out, list(workload.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_steps_do_not_nest(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    with (
        Replay(plan, workload.model, workload.optimizer) as replay,
        pytest.raises(RuntimeError, match="nested"),
        replay.step(),
        replay.step(),
    ):
        pass
    assert_all_resident(workload)


def test_after_close_the_model_is_stock(plan: Plan) -> None:
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay, replay.step():
        workload.step()
    plain.step()
    assert not any(module._forward_pre_hooks for module in workload.model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in workload.model.parameters())
    for one in (plain, workload):
        one.step()
    assert_same(snapshot(plain), snapshot(workload))


@pytest.mark.cpu_only
@pytest.mark.filterwarnings("ignore:.* took more than the budget:runtime.FallbackWarning")
def test_the_budget_is_enforced_under_the_plan(plan: Plan) -> None:
    tighter = plan.model_copy(update={"budget_bytes": plan.budget_bytes - 1})
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    losses = []
    with Replay(tighter, workload.model, workload.optimizer) as replay:
        for _ in range(2):
            try:
                with replay.step():
                    losses.append(workload.step())
            except EmulatedOutOfMemoryError:
                break
        else:
            pytest.fail("one byte less than the plan needs was enough")
        assert_all_resident(workload)
    # What has no room is the last that comes back, when both steps are done.
    assert [loss.item() for loss in losses] == [plain.step().item() for _ in range(2)]
    assert_same(snapshot(plain), snapshot(workload))


def test_an_in_place_write_to_a_saved_tensor_is_still_an_error() -> None:
    """Autograd itself does not check tensors that went through hooks."""

    class Spoiler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, inputs: torch.Tensor, spoil: bool) -> torch.Tensor:
            hidden = torch.tanh(self.layer(inputs))
            out = hidden * hidden
            if spoil:
                hidden.add_(1)
            return out.sum()

    def training(spoil: list[bool]) -> Workload:
        torch.manual_seed(0)
        model = Spoiler()
        optimizer = torch.optim.Adam(model.parameters())
        flags = iter(spoil)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(256, 64), next(flags))
            loss.backward()
            optimizer.step()
            return loss

        return Workload(model=model, optimizer=optimizer, step=step)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        training([True]).step()
    profile = record_at_fixed_times(training([False] * 40))
    workload = training([False, True])
    plan = beside_another(everything_away(profile))
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with replay.step():
            workload.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            spoiled = pytest.raises(RuntimeError, match="modified by an inplace operation")
            with spoiled, replay.step():
                workload.step()
        assert_all_resident(workload)


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unet.plan.json"
    write_plan(beside_another(everything_away_plan("unet3d")), path)
    other = BUILDERS["resnet"]()
    with pytest.raises(PlanMismatchError, match="The plan is for another model: the optimizer is"):
        load(path).attach(other.model, other.optimizer)
    same = BUILDERS["unet3d"]()
    with pytest.raises(PlanMismatchError, match="the optimizer is SGD here, planned"):
        load(path).attach(same.model, torch.optim.SGD(same.model.parameters(), lr=0.1))
    with load(path).attach(same.model, same.optimizer) as replay, replay.step() as statistics:
        same.step()
    assert statistics.fallback is None


def test_same_shapes_but_another_program_falls_back_with_right_numbers() -> None:
    """The fingerprint cannot tell these two apart; the anchors can."""

    class Swapped(nn.Sequential):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            for module in self:
                rows = torch.sigmoid(module(rows))
            return rows

    def training(kind: type[nn.Sequential]) -> Workload:
        torch.manual_seed(0)
        model = kind(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 1))
        optimizer = torch.optim.Adam(model.parameters())

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(128, 64)).sum()
            loss.backward()
            optimizer.step()
            return loss

        return Workload(model=model, optimizer=optimizer, step=step)

    profile = record_at_fixed_times(training(nn.Sequential))
    plain, workload = training(Swapped), training(Swapped)
    plan = beside_another(everything_away(profile))
    replay = Replay(plan, workload.model, workload.optimizer)
    with replay, pytest.warns(FallbackWarning):
        for _ in range(2):
            plain.step()
            with replay.step():
                workload.step()
    assert_same(snapshot(plain), snapshot(workload))


def test_every_step_has_its_statistics(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(3):
            with replay.step():
                workload.step()
    assert [step.step for step in replay.steps] == [0, 1, 2]


def test_the_step_that_makes_the_states_is_swapped_on_line(plan: Plan) -> None:
    """It does not follow the plan, stays within its budget, and ends where the plan begins."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        make_states(replay, workload, plain)
        assert_same(snapshot(plain), snapshot(workload))
        with replay.step():
            workload.step()
    first, second = replay.steps
    assert first.fallback is None
    assert first.on_line
    assert (first.peak_bytes or 0) <= plan.budget_bytes
    assert (second.on_line, second.skipped_swaps) == (False, 0)
    assert second.d2h_bytes == plan.certificate.d2h_bytes


def test_states_may_be_made_later_than_in_the_first_step(plan: Plan) -> None:
    """A step without an update makes none; the first with one is kept within the budget, too."""
    workload = perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        with replay.step():
            workload.model(torch.rand(512, 192))
        for _ in range(2):
            with replay.step():
                workload.step()
    assert [step.on_line for step in replay.steps] == [True, True, False]
    assert all((step.peak_bytes or 0) <= plan.budget_bytes for step in replay.steps)
    assert [step.fallback for step in replay.steps] == [None] * 3


def test_a_step_is_left_unwatched_only_after_a_watched_one_passed(plan: Plan) -> None:
    workload = perceptron_training(SAME)
    with Replay(plan, workload.model, workload.optimizer) as replay:
        for _ in range(3):
            with replay.unwatched_step():
                workload.step()
        # The first makes the lazy states, which the others move: it vouches for none of them.
        assert [step.peak_bytes is None for step in replay.steps] == [False, False, True]
        with pytest.warns(FallbackWarning), replay.unwatched_step():
            workload.model(torch.rand(3, 192))
        with replay.unwatched_step() as statistics:
            workload.step()
        assert statistics.peak_bytes is not None
        assert statistics.fallback is None


@pytest.mark.cpu_only
def test_a_proof_of_another_step_fails(plan: Plan) -> None:
    report = prove(plan, build=lambda: perceptron_training([2048] * 40), steps=3, timed_steps=1)
    assert report.losses_equal
    assert report.tensors_equal
    assert report.fallbacks == 2, "the first step makes the states, and follows no plan"
    assert not report.passed


def test_a_proof_of_a_step_that_takes_more_says_so(plan: Plan) -> None:
    """No anchor tells this step from the planned one; its memory does."""

    def build() -> Workload:
        workload = perceptron_training(SAME)

        def step() -> torch.Tensor:
            extra = torch.ones(plan.budget_bytes // 4)
            return workload.step() * extra[0]

        return Workload(model=workload.model, optimizer=workload.optimizer, step=step)

    # Where memory is more than storages, it is not compared with the plan's.
    on_cpu = plan.device.kind == CPU
    told = r"bytes more than planned at .* 'begin'" if on_cpu else "training ran out of memory"
    with pytest.raises(PlanMismatchError, match=told):
        prove(plan, build=build, steps=3, timed_steps=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_plan_for_a_device_that_is_not_there_is_refused() -> None:
    plan = everything_away_plan("unet3d")
    device = plan.device.model_copy(update={"kind": "cuda", "compute_threads": 0})
    elsewhere = plan.model_copy(update={"device": device})
    with pytest.raises(PlanMismatchError, match=r"for device 'cuda'.*does not have"):
        prove(elsewhere, build=BUILDERS["unet3d"], steps=2, timed_steps=1)
    workload = BUILDERS["unet3d"]()
    with pytest.raises(PlanMismatchError, match="for device 'cuda'"):
        LoadedPlan(elsewhere).attach(workload.model, workload.optimizer)


def test_proof_needs_steps_of_both_kinds() -> None:
    plan = everything_away_plan("unet3d")
    with pytest.raises(WorkloadError, match="at least 2 steps"):
        prove(plan, build=BUILDERS["unet3d"], steps=1, timed_steps=0)


def test_a_device_without_room_for_everything_keeps_what_is_on_the_host(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step raises, and what was away does not fit: nothing is lost, and it can be tried again."""
    plain, workload = perceptron_training(SAME), perceptron_training(SAME)
    replay = Replay(plan, workload.model, workload.optimizer)
    for one in (plain, workload):
        one.step()
    before = snapshot(plain)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("the device is full")

    handles = [
        one.model.get_submodule("4").register_forward_hook(full) for one in (plain, workload)
    ]
    with pytest.raises(torch.OutOfMemoryError):
        plain.step()
    with monkeypatch.context() as patch:
        patch.setattr(TrackedStorage, "swap_in", full)
        with pytest.raises(torch.OutOfMemoryError) as raised, replay.step():
            workload.step()
        assert any("still in host memory" in note for note in raised.value.__notes__)
    for handle in handles:
        handle.remove()
    replay.close()
    assert_all_resident(workload)
    assert_same(before, snapshot(workload))
    assert torch.equal(plain.step(), workload.step())
    assert_same(snapshot(plain), snapshot(workload))
