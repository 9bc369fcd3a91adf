"""Steps that are not the planned one: what is dropped comes back before anything else happens."""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from planner.ilp.deadline import Deadline
from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.errors import SwapplanError
from runtime import FallbackWarning, Replay
from runtime.recompute.recipes import LostStorageError
from runtime.storage.residency import Residency
from tests.support.commands import PATIENCE_S
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import seeded
from tests.support.training.recorded import assert_same, snapshot

STEPS = 5
UNUSUAL = 3
"""The step that is another one."""

pytestmark = pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")


class Place(Enum):
    """Where in a step something unusual is done; everything is dropped at the last two."""

    IN_FORWARD = "between two layers"
    AFTER_FORWARD = "before backward"
    IN_BACKWARD = "in backward"


class Network(nn.Module):
    def __init__(self, act: Callable[[Place], None]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(24, 24), nn.Linear(24, 24)
        self.norm = nn.BatchNorm1d(24)
        self.act = act
        self.seen: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        self.act(Place.IN_FORWARD)
        hidden = torch.tanh(hidden)
        normed = self.norm(hidden)
        self.seen = {"x": x.detach(), "hidden": hidden.detach(), "normed": normed.detach()}
        return self.last(torch.dropout(torch.relu(normed), 0.2, train=True))


class Training:
    """A training that does something at one place of one step.

    Attributes:
        workload: The training.
        model: Its model.
        replay: What replays it; None if nothing does.
        repeats: How often that step goes backward.
        gives_up: Whether it goes no further than that place.
    """

    def __init__(self, place: Place | None = None, act: Callable[["Training"], Any] = id) -> None:
        torch.manual_seed(0)
        self.model = Network(self._at)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, foreach=False)
        self.workload = Workload(model=self.model, optimizer=optimizer, step=self._step)
        self.replay: Replay | None = None
        self.repeats = 1
        self.gives_up = False
        self._place, self._act = place, act
        self._step_number = 0
        self._generator = seeded(1)

    def run(self, steps: int = STEPS) -> list[torch.Tensor]:
        """Trains on; a step that raises what it may is a step, too."""
        losses = []
        for _ in range(steps):
            try:
                with self._around():
                    losses.append(self._step())
            except Stopped:
                self.workload.optimizer.zero_grad()
        return losses

    def close(self) -> None:
        """Closes the replay, if there is one."""
        if self.replay is not None:
            self.replay.close()

    def _around(self) -> AbstractContextManager[Any]:
        if self.replay is None or self.replay._stepper.history.is_closed:
            return nullcontext()
        return self.replay.step()

    def _step(self) -> torch.Tensor:
        try:
            return self._train()
        finally:
            self._step_number += 1

    def _train(self) -> torch.Tensor:
        self.workload.optimizer.zero_grad()
        x = torch.rand(8, 24, generator=self._generator)
        y = self.model(x)
        y.register_hook(lambda _: self._at(Place.IN_BACKWARD))
        loss = (y - x).square().mean()
        del y
        self._at(Place.AFTER_FORWARD)
        if self.gives_up:
            self.gives_up = False
            return loss.detach()
        for n in reversed(range(self.repeats if self._is_due else 1)):
            loss.backward(retain_graph=n > 0)
        self.model.seen.clear()
        self.workload.optimizer.step()
        return loss.detach()

    @property
    def _is_due(self) -> bool:
        return self._step_number == UNUSUAL

    def _at(self, place: Place) -> None:
        if self._is_due and place is self._place:
            self._act(self)


class Stopped(Exception):
    """A step is given up."""


@cache
def plan() -> Plan:
    found = with_rebuilds(record_at_fixed_times(Training().workload))
    assert len(found.rebuilds) > 3
    return found.model_copy(update={"budget_bytes": 3 * found.budget_bytes})


@pytest.fixture(autouse=True)
def _is_planned() -> None:
    """Recording draws numbers: not between a seed and the training that it is for."""
    plan()


def under_plan(training: Training) -> list[torch.Tensor]:
    with Replay(plan(), training.model, training.workload.optimizer) as replay:
        training.replay = replay
        losses = training.run()
        assert all(
            t.residency is Residency.RESIDENT for t in replay._stepper.executor.tracked.values()
        )
    return losses


def assert_falls_back_once(make: Callable[[], Training], why: str = "") -> Replay:
    expected, training = make(), make()
    torch.manual_seed(2)
    wanted = expected.run()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    losses = under_plan(training)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, losses, wanted))
    assert_same(snapshot(training.workload), snapshot(expected.workload))
    assert training.replay is not None
    fallbacks = {step.step: step.fallback for step in training.replay.steps if step.fallback}
    # One that was closed says nothing of the step in which that was done.
    assert list(fallbacks) == ([] if len(training.replay.steps) < STEPS else [UNUSUAL])
    assert why in str(fallbacks.get(UNUSUAL, why))
    return training.replay


def stop(_: Training) -> None:
    raise Stopped


def reload(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


ACTS: dict[str, tuple[Place, Callable[[Training], Any], str]] = {
    "reads what is dropped": (
        Place.AFTER_FORWARD,
        lambda training: training.model.seen["hidden"].sum(),
        "uses a storage that the plan has away",
    ),
    "reads it in backward": (
        Place.IN_BACKWARD,
        lambda training: training.model.seen["hidden"].sum(),
        "uses a storage that the plan has away",
    ),
    "writes what is dropped": (
        Place.AFTER_FORWARD,
        lambda training: training.model.seen["hidden"].data.mul_(0.5),
        "uses a storage that the plan has away",
    ),
    "takes its address": (
        Place.AFTER_FORWARD,
        lambda training: training.model.seen["hidden"].data_ptr(),
        "code that is no op uses",
    ),
    "writes a weight": (
        Place.AFTER_FORWARD,
        lambda training: training.model.first.weight.data.mul_(0.5),
        "writes a storage from which the plan rebuilds",
    ),
    "writes a weight in backward": (
        Place.IN_BACKWARD,
        lambda training: training.model.first.weight.data.view(-1)[5:].mul_(0.5),
        "writes a storage from which the plan rebuilds",
    ),
    "writes the batch": (
        Place.AFTER_FORWARD,
        lambda training: training.model.seen["x"].data.zero_(),
        "",
    ),
    "writes a weight before the drop": (
        Place.IN_FORWARD,
        lambda training: training.model.first.weight.data.mul_(0.5),
        "",
    ),
    "runs an op more": (Place.IN_FORWARD, lambda _: torch.ones(3) + 1.0, "ran where"),
    "loads a state_dict": (
        Place.AFTER_FORWARD,
        lambda training: reload(training.workload.optimizer),
        "a state_dict was read or loaded",
    ),
    "raises": (Place.AFTER_FORWARD, stop, "the step raised Stopped"),
    "raises in backward": (Place.IN_BACKWARD, stop, "the step raised"),
    "raises in forward": (Place.IN_FORWARD, stop, "the step raised Stopped"),
    "closes the replay": (
        Place.AFTER_FORWARD,
        lambda training: training.close(),
        "closed inside the step",
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_is_dropped_comes_back_before_a_step(act: str) -> None:
    place, do, why = ACTS[act]
    assert_falls_back_once(lambda: Training(place, do), why)


def test_two_backwards_of_one_graph() -> None:
    def make() -> Training:
        training = Training()
        training.repeats = 2
        return training

    assert_falls_back_once(make, "anchor")


def test_a_write_of_running_statistics_is_no_matter() -> None:
    """They are written, not read, by what runs again."""

    def write(training: Training) -> None:
        assert training.model.norm.running_mean is not None
        training.model.norm.running_mean.data.zero_()

    training, expected = (Training(Place.AFTER_FORWARD, write) for _ in range(2))
    torch.manual_seed(2)
    wanted = expected.run()
    torch.manual_seed(2)
    losses = under_plan(training)
    assert all(map(torch.equal, losses, wanted))
    assert_same(snapshot(training.workload), snapshot(expected.workload))
    assert training.replay is not None
    assert training.replay.fallbacks == 0


def test_a_graph_that_dies_while_it_is_dropped_takes_everything_along() -> None:
    """There is nothing left to rebuild, and nothing is held."""

    def give_up(training: Training) -> None:
        training.model.seen.clear()
        training.gives_up = True

    replay = assert_falls_back_once(lambda: Training(Place.AFTER_FORWARD, give_up), "anchor")
    assert replay.steps[UNUSUAL].ops_run_again == 0


@pytest.mark.parametrize("way", ["step", "unwatched_step", "unguarded_step"])
def test_steps_that_are_watched_less_rebuild_as_well(way: str) -> None:
    expected, training = Training(), Training()
    torch.manual_seed(2)
    wanted = expected.run()
    torch.manual_seed(2)
    with Replay(plan(), training.model, training.workload.optimizer) as replay:
        losses = []
        for _ in range(STEPS):
            with getattr(replay, way)():
                losses.append(training.workload.step())
        rebuilt = {step.rebuilt_bytes for step in replay.steps}
        assert "rebuilt by" in replay.summary()
    assert all(map(torch.equal, losses, wanted))
    assert_same(snapshot(training.workload), snapshot(expected.workload))
    assert len(rebuilt) == 1
    assert rebuilt.pop() > 0
    assert replay.fallbacks == 0
    watched = [step.peak_bytes is not None for step in replay.steps]
    assert watched[-1] is (way == "step" and torch.get_default_device().type == "cpu")


def closing_fault(replay: Replay) -> LostStorageError | None:
    try:
        replay.close()
    except LostStorageError as error:
        return error.with_traceback(None)
    return None


def test_what_cannot_be_rebuilt_is_an_error_and_never_other_numbers() -> None:
    """A write that no mode sees, which autograd counts."""

    def write(training: Training) -> None:
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            training.model.first.weight.mul_(0.5)

    training = Training(Place.AFTER_FORWARD, write)
    replay = Replay(plan(), training.model, training.workload.optimizer)
    training.replay = replay
    with pytest.raises(SwapplanError, match="Their numbers are lost") as raised:
        training.run()
    assert isinstance(raised.value, LostStorageError)
    del raised
    training.model.seen.clear()
    gc.collect()
    patience = Deadline.within(PATIENCE_S)
    while "lost" in str(closing_fault(replay)) and not patience.over:
        # On an accelerator the thread that went backward holds the graph a little longer.
        time.sleep(0.001)
    replay.close()


def test_a_warning_says_what_happened() -> None:
    training = Training(*ACTS["writes a weight"][:2])
    with pytest.warns(FallbackWarning, match="writes a storage from which the plan rebuilds"):
        under_plan(training)
