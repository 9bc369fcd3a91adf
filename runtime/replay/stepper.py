"""Enters, follows, leaves and recovers the steps of a replay, one after the other.

At every anchor it does what the schedule says. The one judgement is whether the step still is the
one that was planned: the next anchor has the expected key, and what it shows is the expected
storage with the expected bytes; or it is the one behind an update that the step has skipped
([Note: shortcuts] in `runtime.replay.running_step`). If not, the step falls back: every storage
comes back, and the rest of the step runs resident, with numbers as right as ever and memory as
large as ever; or it is swapped on line from there, if that is wanted and can be.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from planner.plan.plan import Plan
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.mode_stack import keep_in_view
from profiles.recording.clocks import EventClock, HostClock, MarkClock
from profiles.recording.device import device_of
from profiles.schema.profile import CPU, Access
from profiles.schema.units import NS_PER_US
from runtime.host.host_pool import HostPool
from runtime.recompute.recipes import Recipes
from runtime.replay.attached_hooks import AttachedHooks
from runtime.replay.backend import backend_for
from runtime.replay.between_steps import BoundaryGuard
from runtime.replay.departure import Departure
from runtime.replay.executor import SwapExecutor
from runtime.replay.first_step import FirstSteps, OffPlan
from runtime.replay.lookup import storage_of
from runtime.replay.op_guard import OpGuard
from runtime.replay.running_step import (
    Course,
    OtherCourseError,
    RunningStep,
    let_go_of_failed_backward,
)
from runtime.replay.seen_writes import SeenWrites
from runtime.replay.statistics import Event, History, StepStatistics
from runtime.replay.swap_index import SwapIndex
from runtime.replay.timeline import Ranges, StepTimes, Tracing
from runtime.replay.workers import Workers
from runtime.storage.accountant import Accountant
from runtime.storage.residency import UnmovableError


class Stepper:
    """The steps of a training under a plan.

    An interrupt may come at any point: whatever it leaves unfinished is brought to an end by what
    comes next, be it the end of the step, the next step or `close`.

    Attributes:
        history: All steps so far.
        guard: Looks at what is done between two steps.
        tracing: Times the steps, if that is wanted.
        course: Where in the plan the step is.
        executor: Moves storages.
        accountant: Counts the memory of watched steps.
        op_guard: Looks at the ops of steps that are not watched.
        departure: The ways out of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        workers: Workers | None,
        ranges: Ranges,
        *,
        traced: bool,
        pool: HostPool | None,
        off_plan: OffPlan,
    ) -> None:
        checkpointing = Checkpointing(kept=not plan.without_checkpointing)
        device = device_of(model)
        self.history = History(plan)
        self._workers = workers
        clock: MarkClock = HostClock() if device.type == CPU else EventClock()
        self.tracing = Tracing(plan, ranges, StepTimes(clock) if traced else None)
        backend = backend_for(plan, device, self.tracing.times, pool)
        index = SwapIndex(plan, model, optimizer)
        self.accountant = Accountant(device, backend.budget_bytes)
        recipes = Recipes(plan.rebuilds, device, self.accountant)
        writes = SeenWrites(index, self.accountant, device)
        self.executor = SwapExecutor(index, backend, self.accountant, writes, recipes)
        self.course = Course(plan)
        first_steps = FirstSteps(self.executor, self.accountant, plan, off_plan)
        self._step: RunningStep | None = None
        self.op_guard = OpGuard(self.accountant.guarded)
        self.departure = Departure(
            *(self.executor, first_steps, self.op_guard, self.history, self.accountant),
            is_alone=workers is None,
            current=lambda: self._step,
        )
        restore = self.departure.restore_for_good
        self.guard = BoundaryGuard(restore, self.history.count_restore)
        self._attached = AttachedHooks(self, self.guard, checkpointing)
        self.departure.then_resident = self._attached.leave_plan
        self.departure.catch_up_with = self._catch_up_with
        self.departure.catch_up_for_room = self._catch_up_for_room
        try:
            self._attached.attach(model, optimizer)
            self._anchors = AnchorHooks(model, optimizer, self._attached, self.course.reported)
            self._anchors.relieve(self.op_guard)
        except BaseException:
            self._attached.close()
            raise

    @property
    def first_steps(self) -> FirstSteps:
        """Steps that make what the plan moves, or have left the plan."""
        return self.departure.first_steps

    def statement(
        self, watch: AbstractContextManager[object], *, watched: bool = False
    ) -> AbstractContextManager[StepStatistics]:
        """Returns what runs a step inside a `with` statement.

        Args:
            watch: What looks at the ops of the step.
            watched: Whether its memory is counted.
        """
        step = RunningStep(watch, watched, self.executor.act)
        return step.statement(self._enter_step, self._leave_step)

    def close(self) -> None:
        """Brings everything back and lets go of the model, at any time; may be repeated."""
        if self._step is not None and not self._step.is_over:
            now = self._step.statistics
            now.fallback = now.fallback or "the replay was closed inside the step"
        self._recover()
        self._anchors.close()
        self._attached.close()
        self.executor.close()
        if self._workers is not None:
            self.history.count_fallback_on(self._workers.close())
            self._workers = None
        self.history.close()

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Does what the schedule says for the next anchor; see `profiles.hooks.anchors`."""
        step, course, times = self._step, self.course, self.tracing.times
        arrived = None if times is None else times.clock.mark()
        assert step is not None
        if step.statistics.fallback is not None:
            return
        watching = self.accountant.watching
        if (watching or self.first_steps.swap is not None) and self._is_passed_over(key):
            return
        if watching:
            self._compare_memory(step)
        slot = course.slot
        try:
            if not course.expects(key):
                self._leave_out(step, course.leave_out(key))
                slot = course.slot
            shows = course.check(key)
            if shows is not None:
                self.executor.check_shown(key, shows, storage_of(shown))
            actions = course.moves[slot]
            for action in actions:
                step.act(action, slot)
            if actions:
                self.executor.flush()
        except (OtherCourseError, UnmovableError) as error:
            if self.departure.leave(step, str(error)):
                return
        except torch.OutOfMemoryError:
            if not self.departure.leave_for_room(step):
                raise
            if self.first_steps.swap is not None:
                return
        course.go_on()
        if watching:
            storage = storage_of(shown)
            if storage is not None:
                self.accountant.memory.count([storage])
            self.accountant.memory.open_slot()
        if times is not None:
            times.pass_anchor(slot, arrived)
        if step.statistics.fallback is None:
            self._fill(step, slot)

    def _catch_up_with(self, step: RunningStep, why: str, cdata: int) -> bool:
        """Has a storage there that an op asks for behind an update that it skips; whether it is."""
        forbidden = self.accountant.guarded.forbidden
        if cdata not in forbidden:
            return False
        self._leave_out_update(step, why, until=lambda: cdata not in forbidden)
        return cdata not in forbidden

    def _catch_up_for_room(self, step: RunningStep, why: str) -> bool:
        """Has the room there that the plan has behind an update that the step skips, if it does."""
        is_next = self.course.is_before_update
        return is_next and self._leave_out_update(step, why, until=lambda: False)

    def _leave_out_update(self, step: RunningStep, why: str, until: Callable[[], bool]) -> bool:
        """Makes the moves of an update slot by slot; whether none was in vain."""
        try:
            while not until() and (slots := self.course.leave_out_update(why)):
                self._leave_out(step, slots)
        except (UnmovableError, torch.OutOfMemoryError):
            return False
        self.executor.flush()
        return True

    def _leave_out(self, step: RunningStep, slots: range) -> None:
        """Makes the moves of an update that the step skips; see [Note: shortcuts]."""
        step.statistics.shortcut = self.course.shortcut
        for slot in slots:
            self._anchors.leave_out(self.course.anchors[slot])
            for action in self.course.schedule[slot]:
                self.executor.leave_out(action, slot)

    def _fill(self, step: RunningStep, slot: int) -> None:
        """Rebuilds what the plan rebuilds in a slot that has begun; notes its ops from now on."""
        self.executor.recipes.capture.open_slot(slot)
        try:
            for action in self.course.fills[slot]:
                step.act(action, slot)
        except UnmovableError as error:
            self.departure.leave(step, str(error))
        except torch.OutOfMemoryError:
            if not self.departure.leave_for_room(step):
                raise

    def _is_passed_over(self, key: str) -> bool:
        """Whether an anchor of a step that is watched or swapped on line is none of the plan's."""
        streams = self.executor.backend.streams
        if streams is not None:
            # A watched step goes first, and the others take the same course.
            streams.see_stream()
        self.first_steps.on_anchor(key)
        return self.first_steps.swap is not None or self.course.is_extra(key)

    def _compare_memory(self, step: RunningStep) -> None:
        """Compares the slots that have just ended with the plan; see `memory_curve`."""
        follows_plan = self.departure.follows_plan(step) and self.course.shortcut is None
        # What a real device needs beyond storages is planned for and not counted.
        counts_as_planned = self.executor.backend.budget_bytes is not None
        if self.accountant.watching and follows_plan and counts_as_planned:
            self.course.compare_memory(self.accountant.memory)

    def _enter_step(self, step: RunningStep) -> StepStatistics:
        self._check_may_begin()
        if self._workers is not None:
            self.history.count_fallback_on(self._workers.wait())
        now = step.statistics = StepStatistics(step=self.history.step_count)
        try:
            self._step = step
            step.start_ns = time.perf_counter_ns()
            self.guard.leave()
            if self.first_steps.begin():
                step.watch, step.watched = self.first_steps, True
            self._begin_step(step)
            self._attached.begin_step()
            step.watch.__enter__()
            if now.fallback is not None:
                self.accountant.lift()
                self._attached.leave_plan()
            self._anchors.begin()
        except BaseException as error:
            step.is_left = True
            self._leave_step(step, error)
            raise
        return now

    def _check_may_begin(self) -> None:
        if self.history.is_closed:
            raise RuntimeError(
                "This replay is closed, so it has no more steps. Attach the plan again for more."
            )
        if self._step is None:
            return
        if self._step.is_running:
            raise RuntimeError("replay.step() is already running; steps cannot be nested.")
        self._recover()

    def _begin_step(self, step: RunningStep) -> None:
        now = step.statistics
        self.course.begin(self.history.step_count)
        self.history.step_count += 1
        step.act = self.tracing.begin(self.executor.act)
        self.executor.begin(now, watched=step.watched)
        if self.first_steps.swap is None:
            self._run_prologue(step)
        self.history.end_prologue(now)

    def _run_prologue(self, step: RunningStep) -> None:
        """See [Note: entering the steady state] in `runtime.replay.swap_index`."""
        now, start_ns = step.statistics, time.perf_counter_ns()
        try:
            if not self.executor.are_held():
                self.departure.restore_for_good()
                self.history.count_restore("a tensor that was replaced")
            self.executor.enter()
        except UnmovableError as error:
            self.departure.fall_back(step, str(error))
        now.prologue_bytes, now.d2h_bytes = now.d2h_bytes, 0
        now.prologue_us = (time.perf_counter_ns() - start_ns) / NS_PER_US

    def _leave_step(self, step: RunningStep, error: BaseException | None) -> None:
        if self._step is not step or step.is_over:
            # The replay has been closed meanwhile.
            return
        try:
            if error is None:
                self._anchors.finish()
            if error is None or isinstance(error, torch.OutOfMemoryError):
                self._compare_memory(step)
        except BaseException as raised:
            self._end_failed_step(step, raised)
            raise
        if error is not None:
            self._end_failed_step(step, error)
            return
        try:
            self._stand_down(step)
            if self._workers is not None:
                self._workers.report(fell_back=step.statistics.fallback is not None)
            self._end_step(step)
        except BaseException as raised:
            self._recover_from(raised)
            raise

    def _end_failed_step(self, step: RunningStep, error: BaseException) -> None:
        """Ends a step that has raised; what else may be raised here must not hide that."""
        now = step.statistics
        now.fallback = now.fallback or f"the step raised {type(error).__name__}"
        try:
            self._stand_down(step)
            if self._workers is not None:
                self._workers.withhold()
            self._end_step(step)
            let_go_of_failed_backward()
        except BaseException as fault:
            self._recover_from(fault)
            keep_in_view(error, fault)

    def _stand_down(self, step: RunningStep) -> None:
        """Hears and sees no more of a step."""
        self._anchors.leave()
        self._attached.end_step()
        step.watch.__exit__(None, None, None)
        self.first_steps.__exit__()

    def _end_step(self, step: RunningStep) -> None:
        now = step.statistics
        now.overrun_us = self.executor.take_overrun_us()
        if now.fallback is None:
            self._settle(step)
        if now.fallback is None:
            step.is_over = True
            self.guard_between_steps()
        else:
            self.departure.restore_for_good()
            step.is_over = True
        self._step = None
        now.duration_us = (time.perf_counter_ns() - step.start_ns) / NS_PER_US
        if step.watched:
            now.peak_bytes = self.accountant.memory.peak_bytes
            now.memory_difference = self.course.memory.difference
        now.allocated_peak_bytes = self.executor.backend.allocated_peak_bytes()
        self.history.add(now, left_out=self.executor.left_out)
        self._say_if_exceeded(now)

    def _say_if_exceeded(self, now: StepStatistics) -> None:
        """A step swapped on line ends where the plan has everything; its own may be there, too."""
        budget_bytes, peak_bytes = self.executor.backend.budget_bytes, now.peak_bytes or 0
        if budget_bytes is not None and now.fallback is None and peak_bytes > budget_bytes:
            event = (
                f"step {now.step} took more than the budget: {peak_bytes:,} bytes of "
                f"{budget_bytes:,}, with what it leaves alive and the plan does not know"
            )
            self.history.warn_once(event, Event.EXCEEDED)

    def guard_between_steps(self) -> None:
        """Looks, until the next step, at what touches a storage that is away or has a copy."""
        self.guard.enter(self.executor.tracked.values())

    def _settle(self, step: RunningStep) -> None:
        """Leaves every storage where the plan has it when a step ends."""
        now, swap = step.statistics, self.first_steps.swap
        if swap is None:
            if self.tracing.times is not None and now.shortcut is None:
                self.tracing.times.keep()
            self.executor.settle()
            return
        now.on_line = True
        now.skipped_swaps = self.executor.index.swap_count
        try:
            self.executor.take_over(swap)
        except UnmovableError as error:
            self.departure.fall_back(step, str(error))
            return
        shortage = self.first_steps.end()
        if shortage is not None:
            event = f"step {now.step} took more than the budget: {shortage}"
            self.history.warn_once(event, Event.EXCEEDED)

    def _recover_from(self, raised: BaseException) -> None:
        if self._step is None:
            return
        try:
            self._recover()
        except BaseException as fault:
            keep_in_view(raised, fault)

    def _recover(self) -> None:
        """Ends what an interrupt may have left unfinished: all is back, and no mode stays."""
        self.history.vouches = False
        if self._step is not None:
            self._stand_down(self._step)
        try:
            self.guard.end(self.departure.restore_for_good)
        except BaseException:
            self.guard.enter((*self.executor.away(), *self.first_steps.away()))
            raise
        finally:
            if self._step is not None:
                self._step.is_over = True
        self._step = None

    def _is_in_step(self) -> bool:
        return self._step is not None and not self._step.is_over

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Has a storage there before code that is no op of the step gets at its memory."""
        self.first_steps.hold(storage._cdata)
        self.accountant.guarded.look("code that is no op", storage, writes=access is Access.WRITE)

    def on_state_dict(self, *, by_ops: bool) -> None:
        """Has everything back before a state_dict is read or loaded, unless ops show its use."""
        if self._step is None or not self._is_in_step():
            self.guard.touch("a state_dict")
        elif not (by_ops and self._step.looks_at_ops):
            why = "a state_dict was read or loaded inside the step"
            self.departure.fall_back(self._step, why)

    def on_forward(self) -> None:
        """Has everything back before the model is called between two steps."""
        if not self._is_in_step():
            self.guard.touch("a call of the model")
