"""Interrupts: nothing is lost wherever they come. `tests.benchmarks.interrupts` tries many more."""

import contextlib
import gc
import random
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from profiles.hooks.mode_stack import (
    call_modes,
    enter_calls_below,
    enter_ops,
    leave_calls,
    leave_ops,
    leave_saved_hooks,
    op_modes,
)
from profiles.hooks.workload import Workload
from profiles.schema.link import CopyMethod
from runtime import Replay
from runtime.host.host_pool import HostPool
from runtime.lanes.copy_device import copy_device
from runtime.lanes.emulated import EmulatedLane
from runtime.lanes.lane import CopyLane
from runtime.lanes.streams import StreamLane
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage
from tests.support.training.fake_streams import FakeStreams
from tests.support.training.interrupting import (
    PLANS,
    Outcome,
    Tracer,
    interrupt,
    plan_named,
    tracer_near_an_op,
)
from tests.support.training.interrupting import training as small_training
from tests.support.training.modes import modes_on
from tests.support.training.recorded import assert_all_resident

A_PLAN = 25


@pytest.mark.parametrize(
    ("name", "closes"),
    list(zip(PLANS, (True, True, True, False, True, False, True, True), strict=True)),
)
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_an_interrupt_at_any_instruction_loses_nothing(name: str, closes: bool) -> None:
    """Seeded: the same instructions each time, as long as the code is the same."""
    dice = random.Random(name)
    raised = 0
    for _ in range(A_PLAN):
        tracer = tracer_near_an_op(dice)
        outcome = interrupt(name, tracer, closes=closes)
        raised += len(tracer.raised)
        seen = "KeyboardInterrupt" if tracer.raised else ""
        assert outcome == Outcome(tuple(tracer.raised), seen, ())
    assert raised > 0.8 * A_PLAN


def one_step(replay: Replay, workload: Workload) -> None:
    with replay.step():
        workload.step()


@pytest.mark.parametrize("move", ["swap_out", "release", "swap_in", "arrive", "drop", "restore"])
def test_every_instruction_of_a_move_can_be_the_last(move: str) -> None:
    """One storage; the interrupt comes before each instruction that the move has, one by one."""
    at = 0
    while True:
        at += 1
        values = torch.arange(64)
        copies_on = copy_device(values.device)
        lanes, pool = tuple(map(copies_on.lane, Direction)), copies_on.host_pool(512)
        tracked, path = _tracked_before(move, values, lanes, pool)
        tracer = Tracer([at])
        try:
            with tracer.on():
                path()
        except KeyboardInterrupt:
            pass
        tracked.restore(lanes[1])
        assert torch.equal(values, torch.arange(64)), tracer.raised
        for lane in lanes:
            lane.close()
        if not tracer.raised:
            break
    assert at > 20


def _tracked_before(
    move: str, values: torch.Tensor, lanes: tuple[CopyLane, ...], pool: HostPool
) -> tuple[TrackedStorage, Callable[[], object]]:
    tracked = TrackedStorage(values.untyped_storage(), Accountant(values.device, None))
    host = pool.stretch(0, 512)
    row: list[tuple[str, Callable[[], object]]] = [
        ("swap_out", lambda: tracked.swap_out(lanes[0], host)),
        ("release", tracked.release),
        ("swap_in", lambda: tracked.swap_in(lanes[1])),
        ("arrive", tracked.arrive),
        ("keep_copy", tracked.keep_copy),
        ("drop", tracked.drop),
        ("restore", lambda: tracked.restore(lanes[1])),
    ]
    for name, act in row:
        if name == move:
            return tracked, act
        act()
    raise AssertionError(move)


def test_a_launch_that_is_sent_off_twice_is_carried_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carried: list[int] = []

    class Carrier:
        saw_stray = False

        def carry(self, engine: CopyMethod, ends: list[object], *, to_host: bool) -> None:
            carried.append(len(ends))

    lane = EmulatedLane(Direction.D2H, 1e6, 0.0, carrier=Carrier())  # type: ignore[arg-type]
    pool, values = HostPool(512), torch.arange(64)
    first = lane.issue(values.untyped_storage(), pool.stretch(0, 512), CopyMethod.BATCH_KERNEL)
    second = lane.issue(values.untyped_storage(), pool.stretch(0, 512), CopyMethod.BATCH_KERNEL)
    put = lane._put

    def put_and_be_interrupted(copy: object) -> None:
        put(copy)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(lane, "_put", put_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        lane.flush()
    monkeypatch.undo()
    third = lane.issue(values.untyped_storage(), pool.stretch(0, 512), CopyMethod.BATCH_KERNEL)
    for copy in (second, third, first, second):
        copy.wait()
    lane.close()
    assert carried == [2, 1], "what was sent off takes no more copies"


def test_a_copy_on_a_stream_may_be_waited_for_again() -> None:
    streams = FakeStreams()
    lane = StreamLane(streams, Direction.D2H)
    pool, values = HostPool(512), torch.arange(64)
    recycled: list[int] = []
    streams.recycle = recycled.append  # type: ignore[method-assign,assignment]
    streams.copy = lambda *_: None  # type: ignore[method-assign]
    copies = [
        lane.issue(values.untyped_storage(), pool.stretch(0, 512), CopyMethod.BATCH_KERNEL)
        for _ in range(2)
    ]
    lane.flush()
    before = len(recycled)
    # As an interrupt between the wait and the note of it leaves it.
    for copy in (copies[0], copies[0]):
        lane.let_compute_wait(copy._launch, copy)
    assert len(recycled) == before, "the other copy has still to be waited for"
    for copy in (copies[1], copies[1]):
        lane.let_compute_wait(copy._launch, copy)
    assert len(recycled) == before + 1


def test_no_mode_of_anybody_is_lost_or_left() -> None:
    """Before each instruction of entering and leaving below modes of others, one by one."""

    class Calls(TorchFunctionMode):
        pass

    class Ops(TorchDispatchMode):
        pass

    at, over = 0, False
    while not over:
        at += 1
        own_calls, own_ops, top_ops = Calls(), Ops(), Ops()
        tracer = Tracer([at])
        with torch.device("cpu"), Calls() as theirs, Ops() as others:
            before = [*call_modes()], [*op_modes()]
            try:
                with tracer.on():
                    enter_calls_below(own_calls)
                    enter_ops(own_ops, 0)
                    enter_ops(top_ops)
                    leave_ops(own_ops)
                    leave_calls(own_calls)
                    leave_ops(top_ops)
            except KeyboardInterrupt:
                pass
            assert [m for m in call_modes() if m is not own_calls] == before[0], tracer.raised
            left = [m for m in op_modes() if m not in (own_ops, top_ops)]
            assert left == before[1], tracer.raised
            leave_calls(own_calls)
            leave_ops(own_ops)
            leave_ops(top_ops)
            assert (call_modes()[-1], op_modes()[-1]) == (theirs, others)
        over = not tracer.raised
    assert modes_on() == ()
    assert not torch.utils._python_dispatch._is_in_torch_dispatch_mode
    assert at > 100


def test_hooks_for_saved_tensors_of_others_stay() -> None:
    autograd = torch._C._autograd
    at, over = 0, False
    pairs = [(lambda t, n=n: t, lambda t, n=n: t) for n in range(4)]
    while not over:
        at += 1
        for pair in pairs:
            autograd._push_saved_tensors_default_hooks(*pair)
        tracer = Tracer([at])
        try:
            with tracer.on():
                leave_saved_hooks(pairs[1])
        except KeyboardInterrupt:
            pass
        leave_saved_hooks(pairs[1])
        found = []
        while (top := autograd._top_saved_tensors_default_hooks(True)) is not None:
            found.append(top)
            autograd._pop_saved_tensors_default_hooks()
        assert found == [pairs[3], pairs[2], pairs[0]], tracer.raised
        over = not tracer.raised
    assert at > 20


def test_a_step_that_nobody_left_is_ended_by_the_next() -> None:
    """As if the interrupt came before the first instruction of `__exit__`."""
    workload, plain = small_training(), small_training()
    with Replay(plan_named("periodic"), workload.model, workload.optimizer) as replay:
        for one in (workload, plain):
            one.step()
        step = replay.step()
        step.__enter__()
        with pytest.raises(RuntimeError, match="cannot be nested"), replay.step():
            pass
        del step
        with replay.step() as statistics:
            workload.step()
        assert statistics.fallback is None
        plain.step()
    assert modes_on() == ()
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    found, expected = workload.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_interrupt_while_the_replay_is_closed_is_seen_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workload = small_training()
    closed = HostPool.__init__
    replay = Replay(plan_named("periodic"), workload.model, workload.optimizer)
    with replay.step():
        workload.step()
    interrupts = iter([KeyboardInterrupt, KeyboardInterrupt])

    def interrupted(pool: HostPool, size_bytes: int) -> None:
        for interrupt_now in interrupts:
            raise interrupt_now
        closed(pool, size_bytes)

    monkeypatch.setattr(HostPool, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replay.close()
    assert_all_resident(workload)
    assert all(not module._forward_pre_hooks for module in workload.model.modules())
    with pytest.raises(RuntimeError, match="closed"):
        one_step(replay, workload)


def test_what_an_interrupt_passes_by_is_let_go_of_at_once() -> None:
    """Not when garbage is next collected: the next step has no room for the graph of this one."""
    gc.disable()
    try:
        for at in range(1, 40, 3):
            tracer, below, values = Tracer([at]), _Ops(), torch.ones(4)
            kept = weakref.ref(values)
            with contextlib.suppress(KeyboardInterrupt):
                _enter_with(values, below, tracer)
            del values
            assert kept() is None, tracer.raised
            leave_ops(below)
    finally:
        gc.enable()


def _enter_with(values: torch.Tensor, below: TorchDispatchMode, tracer: Tracer) -> None:
    """Its frame holds the values, as that of a step holds what it computes."""
    with tracer.on():
        enter_ops(below, 0)


class _Ops(TorchDispatchMode):
    """Sees ops and does nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def test_hooks_of_an_attach_that_fails_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = small_training()
    monkeypatch.setattr(
        type(workload.optimizer), "register_step_post_hook", lambda *_: 1 / 0, raising=True
    )
    with pytest.raises(ZeroDivisionError):
        Replay(plan_named("periodic"), workload.model, workload.optimizer)
    for module in workload.model.modules():
        assert not module._forward_pre_hooks
        assert not module._state_dict_pre_hooks
        assert not module._load_state_dict_pre_hooks
    assert not workload.optimizer._optimizer_step_pre_hooks
    assert not workload.optimizer._optimizer_state_dict_pre_hooks


def test_a_closed_replay_has_let_go_of_its_pool() -> None:
    workload = small_training()
    replay = Replay(plan_named("periodic"), workload.model, workload.optimizer)
    pool = weakref.ref(replay._stepper.executor.backend.pool)
    with replay:
        for _ in range(2):
            one_step(replay, workload)
    assert pool() is None
    assert replay.summary()


def left_by(count: int) -> bool:
    """Leaves `no_grad` between two steps, interrupted before an instruction of the guard's.

    Returns:
        Whether the interrupt came before it was left.
    """
    seen = 0

    def tracer(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith("between_steps.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == count:
                sys.settrace(None)
                raise KeyboardInterrupt
        return tracer

    around = torch.no_grad()
    around.__enter__()
    try:
        sys.settrace(tracer)
        around.__exit__(None, None, None)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupt_between_steps_leaves_gradients_on() -> None:
    """Leaving `no_grad` passes the guard, which must not keep it from being left.

    Nothing can be done about the first instruction of the guard's function.
    """
    workload = small_training()
    with Replay(plan_named("periodic"), workload.model, workload.optimizer) as replay:
        for _ in range(2):
            with replay.step():
                workload.step()
        left: list[bool] = []
        while left_by(len(left) + 1):
            left.append(torch.is_grad_enabled())
            torch.set_grad_enabled(True)
    assert len(left) > 5
    assert all(left[1:])
