"""How a step leaves its plan: swapped on line from there, or resident, with everything back.

[Note: steps without room] A step may find no room though its plan is within the budget: it takes
more than it took when it was recorded, or the device's free memory lies in pieces. It then leaves
its plan as one of another course does. The op that found none is run again, alone if it has to be,
unless it may have written half of something: then the error is the user's.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import can_run_twice
from runtime.replay.executor import SwapExecutor
from runtime.replay.first_step import FirstSteps
from runtime.replay.op_guard import OpGuard
from runtime.replay.running_step import RunningStep
from runtime.replay.statistics import Event, History
from runtime.storage.accountant import Accountant
from runtime.storage.residency import UnmovableError

NO_ROOM = (
    "there was no room: the step takes more than when it was recorded, or the device's free memory "
    "lies in pieces"
)


class Departure:
    """The ways out of a plan, for the steps of one replay.

    Attributes:
        first_steps: What swaps on line.
        then_resident: Called when a step has begun to run on resident.
        catch_up_with: Makes the moves of an update that is skipped, until a storage is there.
        catch_up_for_room: Makes all of them, so that there is room.
    """

    def __init__(
        self,
        executor: SwapExecutor,
        first_steps: FirstSteps,
        op_guard: OpGuard,
        history: History,
        accountant: Accountant,
        *,
        is_alone: bool,
        current: Callable[[], RunningStep | None],
    ) -> None:
        """Is asked from now on about what ops find forbidden, or no room for.

        `is_alone` says that no other workers wait for this one; `current` returns the step under
        way, if there is one.
        """
        self.then_resident: Callable[[], None] = lambda: None
        self.catch_up_with: Callable[[RunningStep, str, int], bool] = lambda *_: False
        self.catch_up_for_room: Callable[[RunningStep, str], bool] = lambda *_: False
        self.first_steps = first_steps
        self._executor = executor
        self._op_guard, self._history = op_guard, history
        self._accountant = accountant
        self._is_alone = is_alone
        self._current = current
        accountant.guarded.when_forbidden_use(self._on_miss)
        accountant.guarded.makes_room = self._makes_room
        accountant.when_no_room(self._resident_for_room)
        executor.recipes.when_divergent(self._on_miss)

    def follows_plan(self, step: RunningStep) -> bool:
        """Whether a step has not left its plan, in any way."""
        return step.statistics.fallback is None and self.first_steps.swap is None

    def leave(self, step: RunningStep, reason: str) -> bool:
        """Has a step of another course swapped on line from here, or fall back; whether on line.

        See [Note: steps that leave the plan] in `runtime.replay.first_step`.
        """
        why_not = self._go_on_line(step, reason)
        if why_not is None:
            return True
        self.fall_back(step, f"{reason}{why_not}")
        return False

    def leave_for_room(self, step: RunningStep) -> bool:
        """Leaves after an action of the plan found no room; whether it could."""
        gc.collect()
        shortcut = step.statistics.shortcut
        if shortcut is not None:
            self.leave(step, f"{shortcut}, and there is no room for what the plan moves then")
            return True
        return self._go_on_line(step, NO_ROOM) is None or self._resident_for_room()

    def fall_back(self, step: RunningStep, reason: str) -> None:
        """Brings everything back in a step that is not as planned; it runs on resident."""
        now = step.statistics
        is_new = now.fallback is None
        if is_new:
            now.fallback = reason
            self.then_resident()
        # Even if it is not: an interrupt may have kept some from coming back.
        self._bring_back()
        if is_new:
            event = f"step {now.step} fell back to resident: {reason}"
            self._history.warn_once(event, Event.FELL_BACK)

    def restore_for_good(self) -> None:
        """Brings every storage back; the next step looks all of them up anew."""
        self._bring_back()
        self.first_steps.swap = None
        self._executor.forget()

    def _on_miss(self, reason: str, cdata: int) -> None:
        """Has a storage there that an op is about to use though the plan has it away."""
        step = self._current()
        assert step is not None
        if self.first_steps.hold(cdata):
            return
        step.statistics.misses += 1
        if self.follows_plan(step) and self.catch_up_with(step, reason, cdata):
            return
        if self.leave(step, reason):
            self.first_steps.hold(cdata)

    def _bring_back(self) -> None:
        """Brings every storage back, whatever was going on; no budget holds until the step ends."""
        self._accountant.lift()
        self.first_steps.bring_back()
        self._executor.restore()

    def _go_on_line(self, step: RunningStep, reason: str) -> str | None:
        """Has a step swapped on line from here, if that is wanted; says why it could not be."""
        hands_over = step.watched or step.watch is self._op_guard
        wanted = self.first_steps.are_on_line and self._is_alone
        if not (hands_over and wanted and self.follows_plan(step)):
            return ""
        # Inside an optimizer another mode looks in its place, and would pass by the detour.
        self._op_guard.step_in()
        try:
            self.first_steps.join()
        except (UnmovableError, torch.OutOfMemoryError) as error:
            return f", and it could not be swapped on line ({error})"
        step.statistics.left_plan = reason
        self._history.warn_once(
            f"step {step.statistics.step} left the plan and was swapped on line, within the "
            f"budget: {reason}",
            Event.LEFT_PLAN,
        )
        return None

    def _makes_room(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Has an op that found no room run again, by the plan or on line, if it can be."""
        step = self._current()
        if step is None or step.is_over or not can_run_twice(func, args, kwargs):
            return False
        # What lies in circles takes room that what is away needs.
        gc.collect()
        if self.follows_plan(step) and self.catch_up_for_room(step, f"{func}: {NO_ROOM}"):
            return True
        return self._go_on_line(step, f"{func}: {NO_ROOM}") is None

    def _resident_for_room(self) -> bool:
        """Falls back if there is no room for what cannot be moved; whether it did."""
        why, step = self._executor.lent.why_no_room, self._current()
        if why is None or step is None or step.is_over or step.statistics.fallback is not None:
            return False
        self.fall_back(step, f"{why} the step does not fit within the budget")
        return True
