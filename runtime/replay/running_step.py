"""A step while it runs: its state, the `with` statement around it, and where in the plan it is.

[Note: steps that never end] What the `with` statement holds is no generator, which an interrupt
inside `contextlib` would leave half way. Even so an interrupt can come between the body of the
statement and the first instruction of `__exit__`, and the step is never left then. Its modes stay,
so that code which uses what is away is still seen, until the next step begins or the replay is
closed. The next step knows by the statement's being gone, which nothing else holds.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

import torch

from planner.plan.plan import Plan
from planner.plan.schedule import Action, ActionKind, lower
from profiles.hooks.anchors import Reported, is_update
from profiles.hooks.mode_stack import unseen
from runtime.replay.statistics import StepStatistics
from runtime.replay.timeline import Act
from runtime.storage.accountant import DeviceBytes
from runtime.storage.memory_curve import MemoryCurve
from runtime.storage.residency import UnmovableError


class OtherCourseError(UnmovableError):
    """The step is not the one that was planned: another anchor comes, or shows something else."""


@dataclass(eq=False)
class RunningStep:
    """The state of one step of a replay.

    Attributes:
        watch: What looks at its ops.
        watched: Whether its memory is counted.
        act: Does an action of the schedule, in a range on a profiler's timeline if one is wanted.
        statistics: Its figures.
        start_ns: When it began, on the performance counter.
        is_left: Whether it is being left, or has been.
        is_over: Whether code that runs now runs between two steps.
    """

    watch: AbstractContextManager[object]
    watched: bool
    act: Act
    statistics: StepStatistics = field(default_factory=lambda: StepStatistics(step=0))
    start_ns: int = 0
    is_left: bool = False
    is_over: bool = False
    _statement: "weakref.ref[StepStatement] | None" = None

    @property
    def looks_at_ops(self) -> bool:
        """Whether anything does; see `Replay.unguarded_step`."""
        return not isinstance(self.watch, nullcontext)

    @property
    def is_running(self) -> bool:
        """Whether its statement is still there, and has not been left."""
        is_there = self._statement is not None and self._statement() is not None
        return is_there and not self.is_left

    def statement(self, enter: "Enter", leave: "Leave") -> "StepStatement":
        """Returns what the `with` statement holds."""
        statement = StepStatement(self, enter, leave)
        self._statement = weakref.ref(statement)
        return statement


Enter = Callable[[RunningStep], StepStatistics]
Leave = Callable[[RunningStep, BaseException | None], None]


class StepStatement(AbstractContextManager[StepStatistics]):
    """Enters and leaves a step; see [Note: steps that never end]."""

    def __init__(self, step: RunningStep, enter: Enter, leave: Leave) -> None:
        self._step, self._enter, self._leave = step, enter, leave

    def __enter__(self) -> StepStatistics:
        return self._enter(self._step)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._step.is_left = True
        self._leave(self._step, error)


class Course:
    """Where in the plan a step is.

    [Note: updates without an action] Finding updates costs time for each op, so they are reported
    only if the plan has an action at one of them; if not, their slots are passed over. And the
    first step may reach parameters more often than the recorded one: `foreach` optimizers update
    all of them at once, but some make their states one by one. An update that is not the next of
    the plan says nothing of the step's course, then.

    Attributes:
        schedule: The actions at the anchor of each slot.
        moves: Those that are done before the slot begins.
        rebuilds: Whether there are any of these.
        fills: The others: what is rebuilt counts to the slot, as its ops do.
        reported: Which anchors have to be reported.
        slot: The slot whose anchor comes next.
        memory: The memory of the slots gone through, beside the plan's.
    """

    def __init__(self, plan: Plan) -> None:
        self.schedule = lower(plan)
        self.rebuilds = bool(plan.rebuilds)
        self.slot = 0
        self.memory = MemoryCurve(plan)
        self._slots = plan.slots
        # Slots that have begun at the last reported anchor.
        self._begun = range(0)
        anchors = [slot.anchor for slot in plan.slots]
        acting = [key for key, row in zip(anchors, self.schedule, strict=True) if row]
        acts = bool(list(filter(is_update, acting)))
        self.moves, self.fills = (
            tuple(tuple(a for a in row if is_fill(a) is fills) for row in self.schedule)
            for fills in (False, True)
        )
        self.reported = Reported.EVERYTHING if acts else Reported.ALL_BUT_UPDATES

    def begin(self, step: int) -> None:
        """Begins a step."""
        self.slot, self._begun = 0, range(0)
        self.memory.begin(step)

    def is_extra(self, key: str) -> bool:
        """Whether an anchor is an update, but not the one that opens a slot."""
        if not is_update(key):
            return False
        return self.slot >= len(self._slots) or self._slots[self.slot].anchor != key

    def check(self, key: str) -> int | None:
        """Returns the storage that the next anchor shows.

        Raises:
            OtherCourseError: This anchor is not the next of the plan.
        """
        if self.slot >= len(self._slots):
            raise OtherCourseError(f"anchor {self.slot} is {key!r}, the plan has ended")
        expected = self._slots[self.slot]
        if key != expected.anchor:
            raise OtherCourseError(f"anchor {self.slot} is {key!r}, planned {expected.anchor!r}")
        return expected.shows

    def go_on(self) -> None:
        """Goes on to the slot whose anchor is reported next."""
        after = self.slot + 1
        if self.reported is Reported.ALL_BUT_UPDATES:
            while after < len(self._slots) and is_update(self._slots[after].anchor):
                after += 1
        self._begun = range(self.slot, after)
        self.slot = after

    def compare_memory(self, memory: DeviceBytes) -> None:
        """Compares the slots that have just ended with the plan."""
        if self._begun:
            self.memory.compare(self._begun, memory.slot_peak_bytes, memory.counted)


def is_fill(action: Action) -> bool:
    """Whether an action is one of those that run ops of the step again."""
    return action.kind is ActionKind.REBUILD


def let_go_of_failed_backward() -> None:
    """Lets go of what torch keeps of a backward that raised; it never raises an error of its own.

    Torch's engine keeps the nodes of a failed backward that had been ready to run, and with them
    their graph and what it saved, until another backward runs in the same thread. A step within a
    budget has no room for the activations of an earlier one. So the least backward there is runs
    here, seen by no mode.
    """
    with (
        suppress(Exception),
        unseen(),
        torch._C.DisableTorchFunction(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.zeros((), device="cpu", requires_grad=True).backward()
