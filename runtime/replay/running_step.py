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
from profiles.hooks.anchors import Reported, is_update, kind_of
from profiles.hooks.mode_stack import unseen
from profiles.schema.profile import OPTIMIZER_POST, OPTIMIZER_PRE
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

    [Note: shortcuts] A step may skip an update: a loss scaler does, where gradients have overflown.
    Nothing foretells it, but the anchor that comes instead of the update's is the one behind it.
    Then the step takes a shortcut: what the plan moves while it updates is moved at this anchor,
    one action after the other, and the step goes on by its plan from there. Each of these slots has
    the room that the plan has for it, with no op of the update to take any. So the step ends where
    every other does. And what follows a skipped update may come before any anchor does: averages of
    weights ask for what the plan has away until the update. Then the moves of the update are made
    until it is there. A step that leaves out anything else has no such room: what the plan has away
    in that part is away only if the step has shown it, and what backward frees may be alive.

    Attributes:
        schedule: The actions at the anchor of each slot.
        moves: Those that are done before the slot begins.
        rebuilds: Whether there are any of these.
        fills: The others: what is rebuilt counts to the slot, as its ops do.
        reported: Which anchors have to be reported.
        anchors: The keys of all of them.
        slot: The slot whose anchor comes next.
        shortcut: What came where the step took its last shortcut; None if it took none.
        memory: The memory of the slots gone through, beside the plan's.
    """

    def __init__(self, plan: Plan) -> None:
        self.schedule = lower(plan)
        self.rebuilds = bool(plan.rebuilds)
        self.slot = 0
        self.memory = MemoryCurve(plan)
        self._shows = tuple(slot.shows for slot in plan.slots)
        self.anchors = tuple(slot.anchor for slot in plan.slots)
        self.shortcut: str | None = None
        # Slots that have begun at the last reported anchor.
        self._begun = range(0)
        acting = [key for key, row in zip(self.anchors, self.schedule, strict=True) if row]
        acts = bool(list(filter(is_update, acting)))
        self.moves, self.fills = (
            tuple(tuple(a for a in row if is_fill(a) is fills) for row in self.schedule)
            for fills in (False, True)
        )
        self.reported = Reported.EVERYTHING if acts else Reported.ALL_BUT_UPDATES

    def begin(self, step: int) -> None:
        """Begins a step."""
        self.slot, self._begun = 0, range(0)
        self.shortcut = None
        self.memory.begin(step)

    def is_extra(self, key: str) -> bool:
        """Whether an anchor is an update, but not the one that opens a slot."""
        return is_update(key) and not self.expects(key)

    def expects(self, key: str) -> bool:
        """Whether an anchor is the next of the plan."""
        return self.slot < len(self.anchors) and self.anchors[self.slot] == key

    def check(self, key: str) -> int | None:
        """Returns the storage that the next anchor shows.

        Raises:
            OtherCourseError: This anchor is not the next of the plan.
        """
        if not self.expects(key):
            raise OtherCourseError(self._other_than_planned(key))
        return self._shows[self.slot]

    def leave_out(self, key: str) -> range:
        """Returns the slots of updates that a step skips whose next anchor is this one.

        They are passed over. There are none if another anchor is behind them, too.
        """
        behind = self._behind_updates()
        if behind == self.slot or self.anchors[behind : behind + 1] != (key,):
            return range(0)
        return self._pass_over(behind, self._other_than_planned(key))

    @property
    def is_before_update(self) -> bool:
        """Whether the next anchor of the plan is that of a call of an optimizer."""
        is_over = self.slot >= len(self.anchors)
        return not is_over and kind_of(self.anchors[self.slot]) == OPTIMIZER_PRE

    def leave_out_update(self, why: str) -> range:
        """Returns the next slot, and passes it over, if it is one of an update; else none."""
        if self.slot < len(self.anchors) and _is_of_update(self.anchors[self.slot]):
            return self._pass_over(self.slot + 1, why)
        return range(0)

    def _pass_over(self, behind: int, why: str) -> range:
        slots = range(self.slot, behind)
        self.shortcut, self.slot = why, behind
        # What the step does otherwise may have begun in the slot before.
        self.memory.difference = None
        return slots

    def _behind_updates(self) -> int:
        """Returns the slot behind the updates that a step may skip from here on."""
        slot = self.slot
        if self.is_before_update or self.shortcut is not None:
            while slot < len(self.anchors) and _is_of_update(self.anchors[slot]):
                slot += 1
        return slot

    def _other_than_planned(self, key: str) -> str:
        if self.slot >= len(self.anchors):
            return f"anchor {self.slot} is {key!r}, the plan has ended"
        return f"anchor {self.slot} is {key!r}, planned {self.anchors[self.slot]!r}"

    def go_on(self) -> None:
        """Goes on to the slot whose anchor is reported next."""
        after = self.slot + 1
        if self.reported is Reported.ALL_BUT_UPDATES:
            while after < len(self.anchors) and is_update(self.anchors[after]):
                after += 1
        self._begun = range(self.slot, after)
        self.slot = after

    def compare_memory(self, memory: DeviceBytes) -> None:
        """Compares the slots that have just ended with the plan."""
        if self._begun:
            self.memory.compare(self._begun, memory.slot_peak_bytes, memory.counted)


def _is_of_update(key: str) -> bool:
    """Whether an anchor is one of a call of an optimizer."""
    return is_update(key) or kind_of(key) in (OPTIMIZER_PRE, OPTIMIZER_POST)


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
