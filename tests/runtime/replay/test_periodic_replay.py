"""Training whose parameters, buffers and states wait on the host from one step to the next."""

import copy
import io
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.plan import Plan
from profiles.hooks.mode_stack import call_modes, op_modes
from profiles.hooks.workload import Workload
from profiles.recording.device import device_of
from profiles.schema.profile import CPU
from runtime import FallbackWarning, Replay
from runtime.proof.proof import prove
from runtime.storage.residency import Residency
from tests.support.commands import PATIENCE_S
from tests.support.planning.hardest_plans import (
    clean_swaps_late,
    leaving_at_boundary,
    returning_at_boundary,
)
from tests.support.training.beside import beside_another
from tests.support.training.models import BUILDERS
from tests.support.training.modes import modes_on
from tests.support.training.pairs import Pair, first_parameter, pair, plan_for, training
from tests.support.training.recorded import (
    assert_same,
    periodic_plan,
    snapshot,
)


@pytest.mark.parametrize("name", BUILDERS)
def test_training_is_bit_equal_and_steady_to_the_byte(name: str) -> None:
    plan = periodic_plan(name)
    assert any(swap.wraps for swap in plan.swaps)
    assert any(swap.clean for swap in plan.swaps)
    report = prove(plan, build=BUILDERS[name], steps=3, timed_steps=1)
    assert report.losses_equal
    assert report.tensors_equal
    assert (report.misses, report.fallbacks, report.warnings) == (0, 0, ())
    assert plan.certificate.peak_bytes == plan.budget_bytes
    assert report.peak_with_bytes <= plan.budget_bytes
    if plan.device.kind == CPU:
        assert report.peak_with_bytes == plan.budget_bytes
    assert report.d2h_bytes == plan.certificate.d2h_bytes < report.h2d_bytes
    assert report.h2d_bytes == plan.certificate.h2d_bytes


def test_steps_repeat_without_another_prologue() -> None:
    with pair(steps=4) as both:
        first, *others = both.replay.steps
        assert first.on_line
        assert (first.peak_bytes or 0) <= beside_another(plan_for("adam")).budget_bytes
        for step in others:
            assert (step.prologue_bytes, step.skipped_swaps, step.boundary_restores) == (0, 0, 0)
            assert step.d2h_bytes == plan_for("adam").certificate.d2h_bytes
            if plan_for("adam").device.kind == CPU:
                assert step.peak_bytes == plan_for("adam").certificate.peak_bytes


def test_what_nobody_ever_writes_is_copied_once() -> None:
    plan = plan_for("adam")
    frozen = next(s.id for s in plan.storages if s.name == "parameter:3.weight")
    assert all(swap.clean for swap in plan.swaps if swap.storage == frozen)
    with pair(steps=3) as both:
        assert both.replay._stepper.executor.tracked[frozen].has_copy


@pytest.mark.parametrize(
    ("turned", "residency"),
    [
        (leaving_at_boundary, Residency.LEAVING),
        (returning_at_boundary, Residency.RETURNING),
    ],
)
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_copies_may_be_under_way_when_a_step_ends(
    kind: str, turned: Callable[[Plan], Plan], residency: Residency
) -> None:
    plan = turned(plan_for(kind))
    with pair(kind, steps=3, plan=plan) as both:
        found = [tracked.residency for tracked in both.replay._stepper.executor.tracked.values()]
        assert found.count(residency) >= 5
        last = both.replay.steps[-1]
        assert last.prologue_bytes == 0
        if plan.device.kind == CPU:
            assert last.peak_bytes == plan.certificate.peak_bytes
        assert last.d2h_bytes == plan.certificate.d2h_bytes
        evaluate(both.planned)
        both.planned.model.train()
        assert both.away() == 0
        both.step()
        both.step()
        assert both.away() > 10


def state_of(workload: Workload, key: str = "exp_avg") -> torch.Tensor:
    return workload.optimizer.state[first_parameter(workload)][key]


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def in_thread(act: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(act()))
    thread.start()
    thread.join(timeout=PATIENCE_S)
    return results[0]


def evaluate(workload: Workload) -> torch.Tensor:
    with torch.no_grad():
        # Another thread's default device is another one.
        inputs = torch.ones(3, 48, device=device_of(workload.model))
        return workload.model.eval()(inputs)


def reload(workload: Workload) -> None:
    """Loads what was saved, doubled."""
    doubled = {
        name: (tensor * 2 if tensor.is_floating_point() else tensor)
        for name, tensor in workload.model.state_dict().items()
    }
    workload.model.load_state_dict(doubled)
    workload.optimizer.load_state_dict(copy.deepcopy(workload.optimizer.state_dict()))


TOUCHES: dict[str, Callable[[Workload], object]] = {
    "evaluation": lambda w: (evaluate(w), w.model.train())[0],
    "evaluation with gradients": lambda w: torch.autograd.grad(
        w.model(torch.ones(3, 48)).sum(), first_parameter(w)
    ),
    "evaluation in a thread": lambda w: (in_thread(lambda: evaluate(w)), w.model.train())[0],
    "part of the model": lambda w: w.model.get_submodule("0")(torch.ones(2, 48)),
    "functional call": lambda w: functional.linear(torch.ones(2, 48), first_parameter(w)),
    "norm": lambda w: first_parameter(w).norm().item(),
    "item": lambda w: list(w.model.parameters())[-1].item(),
    "state norm": lambda w: state_of(w).norm().item(),
    "foreach": lambda w: torch._foreach_norm(list(w.model.parameters())),
    "norm of a list": lambda w: torch.nn.utils.get_total_norm(list(w.model.parameters())),
    "dlpack": lambda w: np.from_dlpack(first_parameter(w).detach()).copy(),
    "tolist": lambda w: first_parameter(w).tolist(),
    "index": lambda w: first_parameter(w)[3, 4],
    "repr": lambda w: repr(first_parameter(w)),
    "untyped storage": lambda w: bytes(list(w.model.parameters())[-1].untyped_storage()),
    "data": lambda w: first_parameter(w).data.sum(),
    "op by its name": lambda w: torch.ops.aten.sum.default(first_parameter(w)),
    "state dict": lambda w: {k: v.clone() for k, v in w.model.state_dict().items()},
    "state dict of a module": lambda w: w.model.get_submodule("3").state_dict()["weight"].sum(),
    "optimizer's state dict": lambda w: copy.deepcopy(w.optimizer.state_dict()),
    "save": lambda w: saved(w.model.state_dict()),
    "save a parameter": lambda w: saved(first_parameter(w)),
    "save a list": lambda w: saved(list(w.model.parameters())),
    "save the model": lambda w: torch.load(io.BytesIO(saved(w.model)), weights_only=False)[0].bias,
    "pickle": lambda w: pickle.loads(pickle.dumps(first_parameter(w))),
    "deepcopy": lambda w: copy.deepcopy(w.model)(torch.ones(5, 48)),
    "deepcopy a parameter": lambda w: copy.deepcopy(first_parameter(w)),
    "to another type": lambda w: copy.deepcopy(w.model).double()(torch.ones(5, 48).double()),
    "vector": lambda w: nn.utils.parameters_to_vector(w.model.parameters()),
    "vmap": lambda w: torch.func.vmap(lambda row: row.sum())(first_parameter(w)),
    "write": lambda w: first_parameter(w).data.mul_(2),
    "write without gradient": lambda w: nn.init.ones_(first_parameter(w)),
    "write a state": lambda w: state_of(w).add_(1),
    "write the frozen layer": lambda w: w.model.get_parameter("3.weight").data.neg_(),
    "write a buffer": lambda w: w.model.get_buffer("1.running_mean").zero_(),
    "write by copy": lambda w: first_parameter(w).data.copy_(torch.ones(96, 48)),
    "write through a storage": lambda w: bytes(
        first_parameter(w).untyped_storage().copy_(torch.ones(96, 48).untyped_storage(), False)
    ),
    "set data": lambda w: setattr(first_parameter(w), "data", torch.full((96, 48), 0.1)),
    "set a buffer": lambda w: setattr(w.model.get_submodule("1"), "running_var", torch.ones(96)),
    "load": reload,
    "share": lambda w: evaluate_in_fork(w),
}


def evaluate_in_fork(workload: Workload) -> bytes:
    """A forked process sees everything, and the modes of its parent are not in its way."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # If it hangs it is ended by this, and what reads below finds nothing.
            signal.alarm(PATIENCE_S)
            with torch.no_grad():
                total = sum(p.double().sum().item() for p in workload.model.parameters())
            os.write(theirs, repr((total, len(op_modes()))).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told, "the forked process failed or hung"
    return told


def equal(one: object, other: object) -> bool:
    match one, other:
        case torch.Tensor(), torch.Tensor():
            return torch.equal(one, other)
        case np.ndarray(), np.ndarray():
            return np.array_equal(one, other)
        case (dict(), dict()):
            return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
        case (tuple() | list(), tuple() | list()):
            return len(one) == len(other) and all(map(equal, one, other))
        case _:
            return one == other


HOST_TOUCHES = "dlpack", "share"
"""Not to be had of an accelerator: no other library knows the one of the tests, and no process that
is forked has the one of its parent."""


@pytest.mark.parametrize(
    "touch",
    [
        pytest.param(name, marks=pytest.mark.cpu_only) if name in HOST_TOUCHES else name
        for name in TOUCHES
    ],
)
def test_whoever_touches_between_steps_finds_everything(touch: str) -> None:
    with pair() as both:
        expected = TOUCHES[touch](both.plain)
        found = TOUCHES[touch](both.planned)
        assert equal(expected, found)
        for _ in range(2):
            both.step()
        *_, first, second = both.replay.steps
        assert first.boundary_restores == both.replay.boundary_restores == 1
        assert first.prologue_bytes > 0
        assert (second.boundary_restores, second.prologue_bytes) == (0, 0)


@pytest.mark.cpu_only
@pytest.mark.parametrize("as_array", [lambda p: p.numpy(), np.asarray], ids=["numpy", "array"])
def test_memory_lent_to_numpy_is_whole_and_stays(
    as_array: Callable[[torch.Tensor], np.ndarray],
) -> None:
    """It shows what training makes of it; see `test_lent_memory` for the plan."""
    with pair() as both:
        found = as_array(first_parameter(both.planned).detach())
        for _ in range(2):
            assert np.array_equal(found, first_parameter(both.plain).detach().numpy())
            both.step()
        assert both.away() > 10


def as_array_elsewhere(parameter: torch.Tensor) -> np.ndarray:
    """Taken in a thread whose ops no mode sees."""
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(parameter.detach().numpy().copy()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(as_array_elsewhere, marks=pytest.mark.cpu_only),
        lambda p: p.detach().clone().cpu().numpy(),
    ],
)
def test_what_another_thread_is_bringing_back_is_waited_for(
    use: Callable[[torch.Tensor], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pair() as both:
        guard = both.replay._stepper.guard
        restore, touch = guard._restore, guard.touch
        begun, asked = threading.Event(), threading.Event()

        def late_restore() -> None:
            begun.set()
            asked.wait()
            restore()

        def asking_touch(what: str) -> None:
            if begun.is_set():
                asked.set()
            touch(what)

        monkeypatch.setattr(guard, "_restore", late_restore)
        monkeypatch.setattr(guard, "touch", asking_touch)
        saving = threading.Thread(target=both.planned.model.state_dict)
        saving.start()
        begun.wait()
        try:
            found = use(first_parameter(both.planned))
        finally:
            asked.set()
            saving.join()
        assert np.array_equal(found, first_parameter(both.plain).detach().cpu().numpy())


def test_what_a_tensor_is_may_be_asked_without_its_bytes() -> None:
    """Bookkeeping between steps, as training loops do it, brings nothing back."""
    with pair() as both:
        for parameter in both.planned.model.parameters():
            assert parameter.shape.numel() == parameter.numel() == parameter.nelement()
            assert parameter.dim() == parameter.ndim == len(parameter.size())
            assert parameter.is_leaf
            assert parameter.requires_grad in (True, False)
            assert (parameter.device, parameter.is_cuda) == (torch.get_default_device(), False)
            assert parameter.is_floating_point()
            assert parameter.dtype.itemsize == parameter.element_size()
            assert hash(parameter) == id(parameter)
            assert parameter.grad is None or parameter.grad.shape == parameter.shape
        assert sum(p.numel() for p in both.planned.model.parameters()) > 10_000
        both.planned.optimizer.zero_grad()
        both.planned.optimizer.param_groups[0]["lr"] = 1e-3
        both.planned.model.train()
        torch.rand(64).sum().item()
        assert both.away() > 10
        both.plain.optimizer.zero_grad()
        both.step()
        assert both.replay.boundary_restores == 0


def test_code_that_touches_nothing_may_go_without_guard() -> None:
    with pair() as both:
        guarded = modes_on()
        with both.replay.unguarded():
            assert modes_on() == ()
            torch.rand(3).sum()
        assert len(guarded) == len(modes_on()) == 2
        assert both.away() > 10
        first_parameter(both.planned).norm()
        assert both.away() == 0
        with both.replay.unguarded():
            pass
        both.step()
        with both.replay.unguarded():
            assert torch.equal(evaluate(both.planned), evaluate(both.plain))
        both.planned.model.train()
        both.plain.model.train()
        assert modes_on() == ()


def test_compiled_functions_find_everything() -> None:
    """What was compiled before runs as it did, and what is called from it may touch."""
    twice_norm = torch.compile(lambda tensor: (tensor * 2).norm(), backend="aot_eager")
    with pair() as both:
        with both.replay.unguarded():
            expected = twice_norm(first_parameter(both.plain))
        assert twice_norm(first_parameter(both.planned)) == expected
        both.step()
        model = torch.compile(both.planned.model.eval(), backend="aot_eager")
        with torch.no_grad():
            found = model(torch.ones(3, 48))
        torch.testing.assert_close(found, evaluate(both.plain))
        both.planned.model.train()
        both.plain.model.train()
        both.step()
        assert both.replay.boundary_restores == 2
        assert both.away() > 10


def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="swapplan"), pair() as both:
        for _ in range(2):
            assert first_parameter(both.planned).norm() == first_parameter(both.plain).norm()
            both.step()
    told = [record.message for record in caplog.records if "Logged once" in record.message]
    assert len(told) == 1
    assert "norm" in told[0]


class Interruption(Exception):
    """Raised inside a step on purpose."""


def test_an_exception_inside_a_step_leaves_everything_resident() -> None:
    with pair() as both:
        before = snapshot(both.plain)
        with pytest.raises(Interruption), both.replay.step():
            raise Interruption
        assert both.away() == 0
        assert not op_modes()
        assert_same(before, snapshot(both.planned))
        both.step()
        both.step()
        assert both.replay.steps[-1].prologue_bytes == 0


def test_an_exception_between_steps_leaves_everything_within_reach() -> None:
    with pair() as both:
        with pytest.raises(Interruption):
            raise Interruption
        both.assert_same()


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_step_that_fell_back_is_followed_by_one_that_does_not() -> None:
    with pair() as both:
        expected = evaluate(both.plain)
        both.plain.model.train()
        before = snapshot(both.plain)
        with both.replay.step() as statistics:
            # A list, for a tensor made in a step would count as memory of the next one.
            found = evaluate(both.planned).tolist()
            both.planned.model.train()
        assert found == expected.tolist()
        assert statistics.fallback is not None
        assert both.away() == 0
        assert_same(before, snapshot(both.planned))
        both.step()
        both.step()
        assert both.away() > 10


def test_other_numbers_of_other_size_fall_back_and_are_right() -> None:
    with pair() as both:
        with pytest.warns(FallbackWarning, match="bytes, planned"):
            for workload in (both.plain, both.planned):
                workload.model.double()
                workload.optimizer.state.clear()
                workload.model.register_forward_pre_hook(lambda _, args: args[0].double())
                workload.model.register_forward_hook(lambda *args: args[2].float())
            both.plain.step()
            with both.replay.step():
                both.planned.step()
        assert both.replay.steps[-1].fallback is not None
        both.assert_same()


def test_modes_around_steps_stay_those_of_their_users() -> None:
    class Calls(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return func(*args, **(kwargs or {}))

    class Ops(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.seen += 1
            return func(*args, **(kwargs or {}))

    with pair() as both:
        with Calls() as calls, Ops() as ops:
            assert (call_modes()[-1], op_modes()[-1]) == (calls, ops)
            both.step()
            assert (call_modes()[-1], op_modes()[-1]) == (calls, ops)
            seen = ops.seen
        assert not any(isinstance(mode, (Calls, Ops)) for mode in (*call_modes(), *op_modes()))
        first_parameter(both.planned).norm()
        assert (ops.seen, both.away()) == (seen, 0)
        both.step()
        other = Ops()
        with other:
            assert first_parameter(both.planned).norm() == first_parameter(both.plain).norm()
        assert both.away() == 0
        assert other.seen > 0
        both.step()


def test_a_default_device_may_change_between_steps() -> None:
    with pair() as both:
        kind = torch.get_default_device()
        torch.set_default_device(kind)
        try:
            both.step()
            with torch.device("meta"):
                assert torch.ones(1).is_meta
            assert torch.ones(1).device == kind
            both.step()
        finally:
            torch.set_default_device(None if kind.type == CPU else kind)
        assert both.away() > 10
        assert first_parameter(both.planned).norm() == first_parameter(both.plain).norm()
        both.step()


def test_steps_may_be_made_by_generators_and_threads() -> None:
    def epoch(both: Pair) -> Iterator[None]:
        for _ in range(2):
            both.step()
            yield

    with pair() as both:
        for _ in epoch(both):
            assert both.away() > 10
        in_thread(both.step)
        assert both.away() > 10
        # This thread has no mode for what another one's step left away; its call of the model has.
        assert torch.equal(evaluate(both.planned), evaluate(both.plain))
        both.plain.model.train()
        both.planned.model.train()
        both.step()


def shrinking(numbers: Iterator[bool], write: Callable[[torch.Tensor], object]) -> Workload:
    """Writes the last layer's weights in some steps, between backward and update."""
    workload = training()
    weight = list(workload.model.parameters())[-2]

    def hook(*_: object) -> None:
        if next(numbers):
            with torch.no_grad():
                write(weight)

    workload.optimizer.register_step_pre_hook(hook)
    return workload


@pytest.mark.parametrize(
    "write", [lambda p: p.mul_(0.5), lambda p: p.data.mul_(0.5)], ids=["counted", "uncounted"]
)
def test_an_unplanned_write_makes_a_clean_trip_copy(
    write: Callable[[torch.Tensor], object],
) -> None:
    """No anchor tells that step from the others, and the plan thinks that the host copy is true."""
    plan = clean_swaps_late(plan_for("adam"))
    third = [False, False, True, False, False]
    plain, planned = shrinking(iter(third), write), shrinking(iter(third), write)
    with Replay(beside_another(plan), planned.model, planned.optimizer) as replay:
        both = Pair(replay, plain, planned)
        for _ in third:
            both.step()
        both.assert_same()
        more = [step.d2h_bytes - plan.certificate.d2h_bytes for step in replay.steps]
        assert more[3:] == [0, 0]
        assert more[2] == list(planned.model.parameters())[-2].nbytes


def test_an_unplanned_write_in_a_step_that_nobody_watches_is_counted() -> None:
    plan = clean_swaps_late(plan_for("adam"))
    fifth = [False, False, False, False, True, False]
    halve = nn.Parameter.mul_
    plain = shrinking(iter(fifth), lambda p: halve(p, 0.5))
    planned = shrinking(iter(fifth), lambda p: halve(p, 0.5))
    with Replay(beside_another(plan), planned.model, planned.optimizer) as replay:
        for _ in fifth:
            plain.step()
            with replay.unwatched_step():
                planned.step()
        assert replay.steps[4].peak_bytes is None
        assert_same(snapshot(plain), snapshot(planned))
