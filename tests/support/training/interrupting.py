"""Interrupts at any instruction of a training under a plan, and what must hold after each.

A tracing function raises KeyboardInterrupt before the n-th instruction of `runtime` and `profiles`,
or a timer does so wherever it goes off. The same training without a plan says what every tensor
holds after each op, so what is found after the interrupt must be what an op around it has left.
"""

import bisect
import contextlib
import random
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import profiles
import runtime
from planner.plan.plan import Plan
from profiles.hooks.dispatch import is_bookkeeping
from profiles.hooks.mode_stack import enter_ops, leave_ops
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile
from runtime import Replay
from runtime.lanes.streams import DeviceStreams
from runtime.replay.first_step import OffPlan
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    periodic,
    returning_at_boundary,
)
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.beside import beside_another
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.modes import modes_on

STEPS = 3
WATCHED = tuple(str(Path(p.__file__ or "").parent) + "/" for p in (runtime, profiles))
SWALLOWED_IN = (weakref.__file__, weakref.WeakSet.__init__.__code__.co_filename)
"""Callbacks of weak references of Python's own: what is raised in them it prints and passes over.

One set of Python's knows every thread. Callbacks of the product's are not left out.
"""
HEARD_BEHIND_CALLS = (DeviceStreams.copy.__code__,)
"""Functions that trust in Python's hearing signals behind calls, and not before: what they enter is
left by calls of C."""
SOON_S = 0.0001

Tensors = dict[str, torch.Tensor]


def training(batches: int = 1, *, again: bool = False) -> Workload:
    """A small training with every class of storage that a plan moves.

    With other arguments it is what plans are recorded from that this one leaves: after a backward,
    or at the end of a forward, where much of that is dropped.
    """
    torch.manual_seed(0)
    layers = [m for _ in range(2) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.GELU())]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    inputs = torch.randn(32, 16)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        for _ in range(batches):
            made = model(inputs)
            made = model[3:](made) if again else made
            loss = (made - inputs).square().mean()
            loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


@cache
def _recorded(batches: int = 1, *, again: bool = False) -> Profile:
    return record_at_fixed_times(training(batches, again=again))


PLANS: dict[str, Callable[[], Plan]] = {
    "each step": lambda: everything_away(_recorded()),
    "periodic": lambda: periodic(_recorded()),
    "leaving": lambda: leaving_at_boundary(periodic(_recorded())),
    "returning": lambda: returning_at_boundary(periodic(_recorded())),
    "rebuilt": lambda: with_rebuilds(_recorded()),
    "rebuilt, swapped": lambda: with_rebuilds(_recorded(), swapping=True),
    "left": lambda: periodic(_recorded(2)),
    "left while dropped": lambda: with_rebuilds(_recorded(again=True), swapping=True),
}


@cache
def plan_named(name: str) -> Plan:
    return beside_another(PLANS[name]())


def tensors_of(workload: Workload) -> Tensors:
    """All that a training keeps, by name; not copied."""
    names = {parameter: name for name, parameter in workload.model.named_parameters()}
    found = {f"parameter {name}": parameter.data for parameter, name in names.items()}
    found |= {f"buffer {name}": buffer for name, buffer in workload.model.named_buffers()}
    for parameter, name in names.items():
        if parameter.grad is not None:
            found[f"grad {name}"] = parameter.grad
        for key, value in workload.optimizer.state.get(parameter, {}).items():
            found[f"state {name}.{key}"] = value
    return found


class OpCount(TorchDispatchMode):
    """Counts the ops of a training, and says when one begins and ends."""

    def __init__(self, at_edge: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.begun = 0
        self.done = 0
        self._at_edge = at_edge

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_bookkeeping(func):
            return func(*args, **(kwargs or {}))
        self._at_edge()
        self.begun = self.done + 1
        result = func(*args, **(kwargs or {}))
        self.done = self.begun
        self._at_edge()
        return result


@contextlib.contextmanager
def counting(count: OpCount) -> Iterator[None]:
    """As `with count`, but whatever an interrupt leaves on the stack can be taken off later."""
    try:
        enter_ops(count)
        yield
    finally:
        leave_ops(count)


@cache
def course() -> list[list[Tensors]]:
    """What the training without a plan holds after each op, and before the next one begins."""
    workload = training()
    held: list[list[Tensors]] = [[]]

    def note() -> None:
        with torch._C._DisableTorchDispatch():
            # In host memory, or they would count beside the trainings.
            now = {name: tensor.clone().cpu() for name, tensor in tensors_of(workload).items()}
        if len(held) <= count.done:
            held.append([])
        held[count.done].append(now)

    count = OpCount(note)
    for _ in range(STEPS):
        with counting(count):
            workload.step()
    note()
    return held


@dataclass
class Tracer:
    """Raises before the n-th instruction of what is watched, and once more some time later.

    Attributes:
        at: The numbers of those instructions, in order.
        from_edge: From which edge of an op on it traces; 0 for from the beginning.
        seen: How many instructions have been reached.
        edges: How many had been reached at each edge of an op.
        raised: Where it has raised.
    """

    at: list[int] = field(default_factory=list)
    from_edge: int = 0
    seen: int = 0
    edges: list[int] = field(default_factory=lambda: [0])
    raised: list[str] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._within

    def at_edge(self) -> None:
        """An op begins or has ended."""
        self.edges.append(self.seen)
        if len(self.edges) - 1 == self.from_edge:
            sys.settrace(self)
            frame: FrameType | None = sys._getframe()
            while frame is not None:
                frame.f_trace = self(frame, "call", None)
                frame = frame.f_back

    def _within(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "exception":
            return self._within
        self.seen += 1
        due = len(self.raised) < len(self.at) and self.seen >= self.at[len(self.raised)]
        if due and frame.f_code not in HEARD_BEHIND_CALLS and not _is_swallowed(frame):
            self.raised.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            # What a function returns is handed to its tracer, and the traceback would keep it here:
            # of torch's guards, which are in force as long as they live, one too long.
            del argument
            raise KeyboardInterrupt
        return self._within

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        if self.from_edge == 0:
            sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(None)


def _is_swallowed(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in SWALLOWED_IN:
            return True
        frame = frame.f_back
    return False


@dataclass
class Timer:
    """Raises when some time has passed, wherever that is; where Python would swallow it, later."""

    delay_s: float
    raised: list[str] = field(default_factory=list)

    def at_edge(self) -> None:
        """An op begins or has ended: that is nothing to a timer."""

    def _ring(self, _: int, frame: FrameType | None) -> None:
        if _is_swallowed(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON_S)
            return
        where = "nowhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        self.raised.append("/".join(where.split("/")[-2:]))
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.delay_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass
class Session:
    """A training under a plan: attached, stepped, looked at between two steps, closed."""

    plan: Plan
    workload: Workload = field(default_factory=training)
    count: OpCount = field(default_factory=OpCount)
    replay: Replay | None = None

    def run(self, *, closes: bool) -> None:
        model, optimizer = self.workload.model, self.workload.optimizer
        self.replay = Replay(self.plan, model, optimizer, off_plan=OffPlan.ON_LINE)
        if not closes:
            self._train()
            return
        with self.replay:
            self._train()

    def _train(self) -> None:
        assert self.replay is not None
        for step in range(STEPS):
            with self.replay.step(), counting(self.count):
                self.workload.step()
            if step == 1:
                next(iter(self.workload.model.parameters())).norm()

    def faults_of_numbers(self) -> list[str]:
        """What is lost or holds other numbers, when all should be there."""
        found = tensors_of(self.workload)
        lost = [
            name
            for name, tensor in found.items()
            if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        ]
        if lost:
            return [f"lost: {lost}"]
        held = course()
        with torch._C._DisableTorchDispatch():
            near = [now for row in held[self.count.done : self.count.done + 2] for now in row]
            return [
                f"{name} holds other numbers"
                for name in sorted(found.keys() | {n for now in near for n in now})
                if not any(_same(found.get(name), now.get(name)) for now in near)
            ]


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.cpu(), other.cpu())


def _faults_of_stacks() -> list[str]:
    faults = []
    if modes_on():
        faults.append(f"modes stay: {modes_on()}")
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        faults.append("hooks for saved tensors stay")
    if torch.utils._python_dispatch._is_in_torch_dispatch_mode:
        faults.append("torch believes that a mode is on")
    return faults


@dataclass(frozen=True)
class Outcome:
    """What came of one interrupt.

    Attributes:
        raised: Where it was raised; empty if the training was over before.
        seen: What the user saw.
        faults: What did not hold.
    """

    raised: tuple[str, ...]
    seen: str
    faults: tuple[str, ...]


def edges(name: str, *, closes: bool) -> list[int]:
    """How many instructions come before each edge of an op, and before the end."""
    tracer = Tracer()
    session = Session(plan_named(name), count=OpCount(tracer.at_edge))
    with tracer.on():
        session.run(closes=closes)
    assert session.replay is not None
    session.replay.close()
    return [*tracer.edges, tracer.seen]


def duration_s(name: str) -> float:
    """How long a whole training takes about."""
    start_s = time.perf_counter()
    Session(plan_named(name)).run(closes=True)
    return time.perf_counter() - start_s


def interrupt(name: str, interrupter: Tracer | Timer, *, closes: bool) -> Outcome:
    """Interrupts a training and looks at what is left.

    Args:
        name: The plan.
        interrupter: What raises.
        closes: Whether the training closes the replay; else another step is tried with it.
    """
    session = Session(plan_named(name), count=OpCount(interrupter.at_edge))
    seen, faults = "", []
    try:
        with interrupter.on():
            session.run(closes=closes)
    except BaseException as error:
        seen = type(error).__name__
    leave_ops(session.count)
    if not closes and session.replay is not None:
        faults += _faults_of_another_step(session)
    if session.replay is not None:
        session.replay.close()
    faults += _faults_of_stacks()
    if closes or session.replay is None:
        faults += session.faults_of_numbers()
    if not faults and _can_train(session.workload):
        faults += _faults_of_training_on(session.workload)
    return Outcome(tuple(interrupter.raised), seen, tuple(faults))


def _faults_of_another_step(session: Session) -> list[str]:
    """Steps once more under the plan, and once without from the same numbers."""
    assert session.replay is not None
    # Asking for it brings everything back.
    session.workload.model.state_dict()
    faults = session.faults_of_numbers()
    if faults or not _can_train(session.workload):
        return faults
    before = _copied(session.workload)
    with session.replay.step():
        session.workload.step()
    session.workload.model.state_dict()
    return _differences(before, session.workload)


def _can_train(workload: Workload) -> bool:
    """Whether torch itself could go on: no optimizer knows what to do with half of its states."""
    return all(len(state) in (0, 3) for state in workload.optimizer.state.values())


def _copied(workload: Workload) -> Tensors:
    with torch._C._DisableTorchDispatch():
        return {name: tensor.clone() for name, tensor in tensors_of(workload).items()}


def _differences(before: Tensors, workload: Workload) -> list[str]:
    untouched = _with_numbers(before)
    untouched.step()
    expected, found = tensors_of(untouched), tensors_of(workload)
    return [
        f"{name} is trained on to other numbers"
        for name in sorted(expected.keys() | found.keys())
        if not _same(expected.get(name), found.get(name))
    ]


def _faults_of_training_on(workload: Workload) -> list[str]:
    before = _copied(workload)
    workload.step()
    return _differences(before, workload)


def _with_numbers(numbers: Tensors) -> Workload:
    """The training without a plan, from given numbers."""
    untouched = training()
    for name, parameter in untouched.model.named_parameters():
        parameter.data.copy_(numbers[f"parameter {name}"])
        state = {
            key: numbers[f"state {name}.{key}"].clone()
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"state {name}.{key}" in numbers
        }
        if state:
            untouched.optimizer.state[parameter] = state
    for name, buffer in untouched.model.named_buffers():
        buffer.copy_(numbers[f"buffer {name}"])
    return untouched


def tracer_near_an_op(dice: random.Random) -> Tracer:
    """One interrupt soon after an edge of an op, or while the plan is attached."""
    from_edge = dice.randrange(sum(map(len, course())))
    return Tracer([dice.randrange(1, 4_000 if from_edge else 200_000)], from_edge=from_edge)


def random_tracer(dice: random.Random, edges: list[int]) -> Tracer:
    """One interrupt somewhere; in one of five trainings a second one, not long after."""
    first = dice.randrange(1, edges[-1])
    later = [first + dice.randrange(1, 3000)] if dice.random() < 0.2 else []
    from_edge = max(bisect.bisect_left(edges, first) - 1, 0)
    tracer = Tracer([first, *later], from_edge=from_edge, seen=edges[from_edge])
    return tracer
