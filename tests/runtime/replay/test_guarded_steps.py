"""Steps that do what no recorded step did: nothing read or written of what is away or moving."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from enum import Enum
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.plan import Plan, Swap
from profiles.hooks.mode_stack import op_modes
from profiles.hooks.workload import Workload
from profiles.schema.profile import CPU
from runtime import FallbackWarning, Replay
from runtime.lanes.emulated import Copy
from runtime.replay import stepper
from runtime.replay.backend import Backend, Watch, backend_for
from runtime.replay.op_guard import OpGuard
from runtime.storage.residency import Residency
from runtime.storage.write_marks import LostWriteError, WriteMarks
from tests.support.planning.hardest_plans import (
    clean_swaps_late,
    leaving_at_boundary,
    periodic,
    returning_at_boundary,
    with_swaps,
)
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.recorded import assert_same, snapshot

STEPS = 5
UNUSUAL = 3
"""The step that writes; the ones before it have passed, so it is not watched."""
ROOM_BYTES = 64 << 20

Write = Callable[[torch.Tensor], object]
Act = Callable[[], None]


class Place(Enum):
    """Where in a step something unusual is done."""

    BEFORE_FORWARD = "pre hook of a layer"
    AFTER_FORWARD = "forward hook of a layer"
    IN_FUNCTION = "forward of an autograd function"
    IN_ITS_BACKWARD = "backward of an autograd function"
    TENSOR_HOOK = "hook of a tensor's gradient"
    GRADIENT = "post-accumulate-grad hook"
    BEFORE_UPDATE = "optimizer pre hook"
    AFTER_UPDATE = "optimizer post hook"
    BEGIN = "begin of the step"
    END = "end of the step"
    BETWEEN = "between two steps"


def without_autograd(write: Write) -> Write:
    def act(p: torch.Tensor) -> None:
        with torch.no_grad():
            write(p)

    return act


BEHIND_AUTOGRAD: dict[str, Write] = {
    "data": lambda p: p.data.mul_(0.9),
    "out": lambda p: torch.mul(p.data, 0.9, out=p.data),
    "foreach": lambda p: torch._foreach_mul_([p.data], 0.9),
    "view": lambda p: p.data.view(-1)[3:].mul_(0.5),
    "index": lambda p: p.data.__setitem__(0, 0.25),
}
COUNTED: dict[str, Write] = {
    "in place": without_autograd(lambda p: p.mul_(0.9)),
    "copy": without_autograd(lambda p: p.copy_(torch.full_like(p, 0.03))),
    "detached": lambda p: p.detach().clamp_(-0.05, 0.05),
}
"""Writes that autograd counts: after forward they are its own error, with or without a plan."""
WRITES = BEHIND_AUTOGRAD | COUNTED
SAVED = (
    Place.AFTER_FORWARD,
    Place.IN_FUNCTION,
    Place.IN_ITS_BACKWARD,
    Place.TENSOR_HOOK,
    Place.GRADIENT,
)


VARIED = (Place.BEGIN, Place.AFTER_FORWARD, Place.IN_ITS_BACKWARD, Place.GRADIENT, Place.END)


class Passing(torch.autograd.Function):
    """Hands on what it gets; code of the test's runs inside, both ways."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, act: Callable[[Place], None]) -> torch.Tensor:
        ctx.act = act
        act(Place.IN_FUNCTION)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        ctx.act(Place.IN_ITS_BACKWARD)
        return grads[0], None


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.last = nn.Linear(24, 24)
        self.act: Callable[[Place], None] = lambda place: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.norm(self.first(x)))
        return self.last(Passing.apply(hidden, lambda place: self.act(place)))


class Unusual:
    """A training that does something at one place of one step.

    Attributes:
        workload: The training.
        act: What it does.
        due: Whether it does it now.
    """

    def __init__(self, place: Place | None = None, act: Act = lambda: None) -> None:
        torch.manual_seed(0)
        model = Network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
        self.act, self.due, self._place = act, False, place
        model.act = self._at
        model.first.register_forward_pre_hook(lambda *_: self._at(Place.BEFORE_FORWARD))
        for layer in (model.first, model.norm, model.last):
            layer.register_forward_hook(lambda *_: self._at(Place.AFTER_FORWARD))
            layer.weight.register_post_accumulate_grad_hook(lambda _: self._at(Place.GRADIENT))
        optimizer.register_step_pre_hook(lambda *_: self._at(Place.BEFORE_UPDATE))
        optimizer.register_step_post_hook(lambda *_: self._at(Place.AFTER_UPDATE))
        self.workload = Workload(model=model, optimizer=optimizer, step=self._step)
        self._generator = torch.Generator(torch.get_default_device()).manual_seed(1)

    def write_all(self, write: Write) -> None:
        for parameter in self.workload.model.parameters():
            write(parameter)

    def run(self, around: Callable[[], AbstractContextManager[object]]) -> list[torch.Tensor]:
        """Trains; returns the losses, in host memory."""
        losses = []
        for step in range(STEPS):
            self.due = step == UNUSUAL
            with around():
                losses.append(self.workload.step())
            self._at(Place.BETWEEN)
        return [loss.cpu() for loss in losses]

    def _step(self) -> torch.Tensor:
        self._at(Place.BEGIN)
        self.workload.optimizer.zero_grad()
        x = torch.rand(8, 24, generator=self._generator)
        y = self.workload.model(x)
        y.register_hook(lambda _: self._at(Place.TENSOR_HOOK))
        loss = (y - x).square().mean()
        loss.backward()
        self.workload.optimizer.step()
        self._at(Place.END)
        return loss.detach()

    def _at(self, place: Place) -> None:
        if self.due and place is self._place:
            self.act()


@contextmanager
def plain() -> Iterator[None]:
    yield


@cache
def hardest() -> Plan:
    plan = periodic(record_at_fixed_times(Unusual().workload))
    assert any(swap.clean for swap in plan.swaps)
    return plan


def later(swap: Swap) -> Swap:
    """Keeps a trip's storage under way in both directions for a slot, where there is room."""
    begin, end = swap.swap_out_slot, swap.await_slot
    if swap.clean or swap.wraps or end - begin < 4:
        return swap
    return swap.model_copy(update={"release_slot": begin + 2, "swap_in_slot": end - 1})


PLANS: dict[str, Callable[[Plan], Plan]] = {
    "away": lambda plan: plan,
    "clean, late": clean_swaps_late,
    "leaving at the boundary": leaving_at_boundary,
    "returning at the boundary": returning_at_boundary,
    "under way": lambda plan: with_swaps(plan, [later(swap) for swap in plan.swaps]),
}


@cache
def plan_named(name: str) -> Plan:
    """With room for what an unusual step takes more: memory is not what these tests are of."""
    plan = PLANS[name](hardest())
    # An allocator also counts the other tests' trainings: hooks on their parameters keep them.
    room_bytes = plan.budget_bytes if plan.device.kind == CPU else ROOM_BYTES
    return plan.model_copy(update={"budget_bytes": plan.budget_bytes + room_bytes})


def writing(place: Place, write: Write) -> Unusual:
    unusual = Unusual(place)
    unusual.act = partial(unusual.write_all, write)
    return unusual


@cache
def expected(place: Place, kind: str) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    unusual = writing(place, WRITES[kind])
    losses = unusual.run(plain)
    return losses, snapshot(unusual.workload)


def assert_as_without(place: Place, kind: str, plan: Plan, *, watched: bool) -> Replay:
    losses, numbers = expected(place, kind)
    unusual = writing(place, WRITES[kind])
    model, optimizer = unusual.workload.model, unusual.workload.optimizer
    with Replay(plan, model, optimizer) as attached:
        found = unusual.run(attached.step if watched else attached.unwatched_step)
    counted = [step.peak_bytes is not None for step in attached.steps]
    assert counted[UNUSUAL] is watched
    assert all(map(torch.equal, losses, found))
    assert_same(numbers, snapshot(unusual.workload))
    return attached


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, p) for kind in WRITES for p in Place if kind not in COUNTED or p not in SAVED],
)
def test_no_write_is_lost(kind: str, place: Place) -> None:
    assert_as_without(place, kind, plan_named("away"), watched=False)


@pytest.mark.cpu_only
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize("place", VARIED)
def test_no_write_is_lost_in_a_watched_step(place: Place) -> None:
    assert_as_without(place, "data", plan_named("away"), watched=True)


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize("place", VARIED)
@pytest.mark.parametrize("name", list(PLANS)[1:])
def test_no_write_is_lost_whatever_is_under_way(name: str, place: Place) -> None:
    assert_as_without(place, "data", plan_named(name), watched=False)


@pytest.mark.parametrize(
    "watched",
    [pytest.param(True, marks=pytest.mark.cpu_only), False],
    ids=["watched", "unwatched"],
)
def test_a_write_beside_a_true_host_copy_is_copied_anew(watched: bool) -> None:
    """No fallback: the storage is there, and its next trip copies."""
    plan = plan_named("clean, late")
    attached = assert_as_without(Place.IN_ITS_BACKWARD, "data", plan, watched=watched)
    usual, unusual = attached.steps[UNUSUAL - 1], attached.steps[UNUSUAL]
    assert unusual.fallback is None
    assert unusual.d2h_bytes > usual.d2h_bytes == plan.certificate.d2h_bytes


@pytest.mark.parametrize("read", [torch.sum, lambda p: torch.stack([p, p]), torch.Tensor.isnan])
def test_a_read_of_what_is_away_falls_back(read: Write) -> None:
    plan = plan_named("away")
    unusual = writing(Place.END, read)
    with (
        Replay(plan, unusual.workload.model, unusual.workload.optimizer) as attached,
        pytest.warns(FallbackWarning, match="uses a storage that the plan has away"),
    ):
        losses = unusual.run(attached.unwatched_step)
    assert [step.fallback is not None for step in attached.steps] == [
        step == UNUSUAL for step in range(STEPS)
    ]
    assert all(map(torch.equal, Unusual().run(plain), losses))


def test_where_steps_are_not_counted_they_are_guarded_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CUDA."""

    def uncounted(*what: Any) -> Backend:
        return replace(backend_for(*what), watch=Watch.UNTIL_REPLAYED)

    monkeypatch.setattr(stepper, "backend_for", uncounted)
    losses, numbers = expected(Place.END, "in place")
    unusual = writing(Place.END, WRITES["in place"])
    with (
        Replay(plan_named("away"), unusual.workload.model, unusual.workload.optimizer) as attached,
        pytest.warns(FallbackWarning),
    ):
        found = unusual.run(attached.step)
    assert attached.steps[UNUSUAL].peak_bytes is None
    assert all(map(torch.equal, losses, found))
    assert_same(numbers, snapshot(unusual.workload))


def test_only_a_step_asked_for_by_name_has_no_guard() -> None:
    unusual = Unusual()
    seen: list[bool] = []
    unusual.act = lambda: seen.append(any(isinstance(mode, OpGuard) for mode in op_modes()))
    unusual._place, unusual.due = Place.IN_ITS_BACKWARD, True
    with Replay(plan_named("away"), unusual.workload.model, unusual.workload.optimizer) as attached:
        for around in (
            attached.unwatched_step,
            attached.unguarded_step,
            attached.unwatched_step,
            attached.unguarded_step,
        ):
            with around():
                unusual.workload.step()
    assert [step.peak_bytes is None for step in attached.steps] == [False, False, True, True]
    assert seen == [False, False, True, False], "the first two are watched"


def test_the_guard_leaves_the_modes_around_it_where_they_were() -> None:
    """It steps aside inside the optimizer step, which here raises once."""
    plan = plan_named("away")
    unusual = Unusual()
    model, optimizer = unusual.workload.model, unusual.workload.optimizer
    with (
        torch.device(torch.get_default_device()),
        Replay(plan, model, optimizer) as attached,
        OpCount() as count,
    ):
        for _ in range(3):
            with attached.unwatched_step():
                unusual.workload.step()
        stack = op_modes()
        usual = torch.Tensor.addcdiv_
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "addcdiv_", _raise)
            with pytest.raises(KeyError), attached.unwatched_step():
                unusual.workload.step()
        assert torch.Tensor.addcdiv_ is usual
        assert [mode for mode in op_modes() if not _between_steps(mode)] == [count]
        assert [mode for mode in stack if not _between_steps(mode)] == [count]
        with attached.unwatched_step() as statistics:
            unusual.workload.step()
        assert statistics.fallback is None


def _raise(*_: object, **__: object) -> None:
    raise KeyError("the update fails")


def _between_steps(mode: object) -> bool:
    return type(mode).__module__ == "runtime.replay.between_steps"


class OpCount(TorchDispatchMode):
    """A mode around all steps."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def in_a_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def residency_of(attached: Replay, parameter: torch.Tensor) -> Residency:
    storage = parameter.untyped_storage()
    for tracked in attached._stepper.executor.tracked.values():
        if tracked.is_held_as(storage):
            return tracked.residency
    return Residency.RESIDENT


def written_unseen(
    name: str, place: Place, wanted: Residency, around: str, kind: str = "data"
) -> tuple[Replay, Unusual]:
    """Writes every parameter, all of which are in one residency then, from another thread."""
    unusual = Unusual(place)

    def write(parameter: torch.Tensor) -> None:
        assert residency_of(attached, parameter) is wanted
        in_a_thread(partial(WRITES[kind], parameter))

    unusual.act = partial(unusual.write_all, write)
    model, optimizer = unusual.workload.model, unusual.workload.optimizer
    with Replay(plan_named(name), model, optimizer) as attached:
        unusual.run(getattr(attached, around))
    return attached, unusual


# An accelerator's memory cannot be marked; see `runtime.storage.write_marks`.
@pytest.mark.cpu_only
@pytest.mark.parametrize("around", ["unwatched_step", "unguarded_step"])
@pytest.mark.parametrize(
    ("name", "place", "residency"),
    [
        ("clean, late", Place.IN_ITS_BACKWARD, Residency.RESIDENT),
        ("leaving at the boundary", Place.END, Residency.LEAVING),
    ],
)
def test_what_no_mode_sees_is_found_before_the_bytes_go(
    name: str, place: Place, residency: Residency, around: str
) -> None:
    attached, unusual = written_unseen(name, place, residency, around)
    assert [step.fallback for step in attached.steps] == [None] * STEPS
    assert_same(expected(place, "data")[1], snapshot(unusual.workload))


@pytest.mark.parametrize("kind", COUNTED)
def test_without_marks_as_on_a_gpu_what_autograd_counts_is_found(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(WriteMarks, "put_on", lambda *_: None)
    place = Place.END
    attached, unusual = written_unseen(
        "leaving at the boundary", place, Residency.LEAVING, "unguarded_step", kind
    )
    assert [step.fallback for step in attached.steps] == [None] * STEPS
    assert_same(expected(place, kind)[1], snapshot(unusual.workload))
    with pytest.raises(LostWriteError, match="was written while its bytes were on their way back"):
        written_unseen(
            "returning at the boundary", Place.BEGIN, Residency.RETURNING, "unguarded_step", kind
        )


@pytest.mark.parametrize("around", ["unwatched_step", "unguarded_step"])
@pytest.mark.parametrize("kind", [pytest.param("data", marks=pytest.mark.cpu_only), "in place"])
def test_a_write_that_cannot_be_kept_is_an_error(around: str, kind: str) -> None:
    with pytest.raises(LostWriteError, match="was written while its bytes were on their way back"):
        written_unseen("returning at the boundary", Place.BEGIN, Residency.RETURNING, around, kind)


def written_while_waited_for(name: str, place: Place, wanted: Residency) -> Unusual:
    """Another thread writes every parameter when the one that trains waits for its copy."""
    unusual = Unusual(place)

    def write(parameter: torch.Tensor) -> None:
        (copy,) = [
            tracked._state.copy
            for tracked in attached._stepper.executor.tracked.values()
            if tracked.is_held_as(parameter.untyped_storage()) and tracked.residency is wanted
        ]
        assert isinstance(copy, Copy)
        usual = copy.wait

        def wait() -> float:
            copy.wait = usual  # type: ignore[method-assign]
            waited_us = usual()
            in_a_thread(partial(WRITES["data"], parameter))
            return waited_us

        copy.wait = wait  # type: ignore[method-assign]

    unusual.act = partial(unusual.write_all, write)
    model, optimizer = unusual.workload.model, unusual.workload.optimizer
    with Replay(plan_named(name), model, optimizer) as attached:
        unusual.run(attached.unwatched_step)
    return unusual


@pytest.mark.cpu_only
def test_a_write_during_the_wait_for_a_copy_to_the_host_is_kept() -> None:
    place = Place.END
    unusual = written_while_waited_for("leaving at the boundary", place, Residency.LEAVING)
    assert_same(expected(place, "data")[1], snapshot(unusual.workload))


@pytest.mark.cpu_only
def test_a_write_during_the_wait_for_a_copy_back_is_an_error() -> None:
    with pytest.raises(LostWriteError, match="was written while its bytes were on their way back"):
        written_while_waited_for("returning at the boundary", Place.BEGIN, Residency.RETURNING)
