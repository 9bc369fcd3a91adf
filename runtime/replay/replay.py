"""Replays a plan: at every anchor of a step, does what the schedule says, and nothing else.

Nothing is decided here. The one judgement is whether the step still is the one that was planned:
the next anchor has the expected key, and what it shows is the expected storage with the expected
bytes. If not, the step falls back: every storage comes back, and the rest of the step runs
resident, with numbers as right as ever and memory as large as ever.
"""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Self

import torch

from planner.plan.plan import Plan
from planner.plan.simulate import Timeline
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.mode_stack import insist, keep_in_view
from profiles.recording.clocks import EventClock, HostClock, MarkClock
from profiles.recording.device import device_of
from profiles.schema.profile import CUDA, Access
from profiles.schema.units import NS_PER_US
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.host.host_pool import HostPool
from runtime.recompute.recipes import Recipes
from runtime.replay.attached_hooks import AttachedHooks
from runtime.replay.backend import Watch, backend_for
from runtime.replay.between_steps import BoundaryGuard
from runtime.replay.executor import SwapExecutor
from runtime.replay.first_step import FirstSteps
from runtime.replay.lookup import storage_of
from runtime.replay.op_guard import OpGuard
from runtime.replay.running_step import Course, RunningStep, let_go_of_failed_backward
from runtime.replay.statistics import History, StepStatistics
from runtime.replay.swap_index import SwapIndex
from runtime.replay.timeline import Ranges, StepTimes, Tracing
from runtime.replay.workers import Workers
from runtime.storage.accountant import Accountant
from runtime.storage.residency import UnmovableError
from runtime.storage.write_marks import WriteMarks


class Replay:
    """A plan attached to a model. Use it as a context manager, or call `close`.

    Between steps parameters, buffers and optimizer states may be on the host. Code that touches one
    of them there, to evaluate, save, load or log, first has all of them brought back, and the next
    step sends them away again (see `runtime.replay.between_steps` for what is seen). Once the
    replay is closed everything is resident. Inside a step, `state_dict()` brings everything back
    first.

    An interrupt may come at any point: whatever it leaves unfinished is brought to an end by what
    comes next, be it the end of the step, the next step or `close`.
    """

    def __init__(
        self,
        plan: Plan,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        workers: Workers | None = None,
        ranges: Ranges = Ranges.TORCH_PROFILER,
        *,
        traced: bool = False,
        pool: HostPool | None = None,
    ) -> None:
        device = device_of(model)
        self._history = History(plan)
        self._workers = workers
        clock: MarkClock = EventClock() if device.type == CUDA else HostClock()
        self._tracing = Tracing(plan, ranges, StepTimes(clock) if traced else None)
        backend = backend_for(plan, device, self._tracing.times, pool)
        index = SwapIndex(plan, model, optimizer)
        self._accountant = Accountant(device, backend.budget_bytes)
        self._accountant.guarded.when_forbidden_use(self._on_miss)
        self._accountant.when_no_room(self._on_no_room)
        recipes = Recipes(plan.rebuilds, device, self._accountant)
        recipes.when_divergent(self._on_miss)
        self._executor = SwapExecutor(index, backend, self._accountant, WriteMarks(device), recipes)
        self._course = Course(plan)
        self._first_steps = FirstSteps(index, backend, self._accountant, plan.budget_bytes)
        self._guard = BoundaryGuard(self._restore_for_good, self._history.count_restore)
        self._step: RunningStep | None = None
        self._op_guard = OpGuard(self._accountant.guarded)
        self._attached = AttachedHooks(self, self._guard)
        try:
            self._attached.attach(model, optimizer)
            self._anchors = AnchorHooks(model, optimizer, self._attached, self._course.reported)
            self._anchors.relieve(self._op_guard)
        except BaseException:
            self._attached.close()
            raise

    @property
    def steps(self) -> deque[StepStatistics]:
        """Statistics of the last steps, in order; at most `KEPT_STEPS`."""
        return self._history.steps

    @property
    def fallbacks(self) -> int:
        """How many steps fell back to resident, of all."""
        return self._history.fallbacks

    @property
    def boundary_restores(self) -> int:
        """How many times everything was brought back between two steps."""
        return self._history.boundary_restores

    def step(self) -> AbstractContextManager[StepStatistics]:
        """Replays the plan around the training step run inside.

        Every op is looked at before it runs: one that asks for a storage the plan has away makes
        the step fall back instead of reading freed memory, and one that writes what a host copy
        stands for has it copied anew. A watched step has its memory counted, too. On the emulated
        device every step is watched and the budget is enforced; on CUDA the first and those after
        a fallback are, the others are as in `unwatched_step`.

        Returns:
            A context manager that gives the step's statistics, complete when it is left.

        Raises:
            EmulatedOutOfMemoryError: The step needs more device memory than the budget.
        """
        if self._executor.backend.watch is Watch.UNTIL_REPLAYED:
            return self.unwatched_step()
        return self._watched_step()

    def unwatched_step(self) -> AbstractContextManager[StepStatistics]:
        """Replays the plan without counting memory, once a watched step has passed.

        [Note: unwatched steps] Counting memory takes several times as long as looking whether an
        op touches what is away. So a step goes uncounted only if the one before made all the
        plan's swaps to the end, and the first such step was watched; otherwise this one is
        watched, too. Its ops are looked at all the same; see [Note: guarded steps] in
        `runtime.replay.op_guard` for what is seen.
        """
        if self._history.vouches:
            return self._statement(self._op_guard)
        return self._watched_step()

    def unguarded_step(self) -> AbstractContextManager[StepStatistics]:
        """Replays the plan without looking at any op, once a watched step has passed.

        For steps that surely do the same every time, and whose time is spent on small ops. Nothing
        in this library uses it by itself. If the plan rebuilds storages by running ops again, this
        is as `unwatched_step`: those ops have to be noted. An op that the recorded step did not
        have and that no anchor announces is not seen:

        - On a storage that is away it ends the process; where torch has been built for CUDA, it
          raises RuntimeError.
        - Reading one whose bytes are on their way back gives wrong numbers, silently.
        - On CUDA, writing one whose bytes are on their way in either direction loses the write,
          and so does writing through `.data` one whose host copy is kept. On the emulated device
          such a write is found later (see `runtime.storage.write_marks`).
        """
        if self._course.rebuilds:
            return self.unwatched_step()
        if self._history.vouches:
            return self._statement(nullcontext())
        return self._watched_step()

    def unguarded(self) -> AbstractContextManager[None]:
        """Leaves the code inside, between two steps, without a guard.

        The guard looks at every op of this thread, which takes some microseconds each. This is for
        code that surely touches nothing that the model or the optimizer owns, or does so only by
        calling the model or its `state_dict`, such as a long evaluation.
        """
        return self._guard.suspended()

    def count(self, storages: Iterable[torch.UntypedStorage]) -> None:
        """Counts storages of the emulated device that no op of a step may ever touch."""
        self._accountant.memory.count(storages)

    def take_over(self, swap: OnlineSwap) -> None:
        """Has everything where the plan has it between two steps, from what has swapped on line."""
        try:
            self._executor.take_over(swap)
        except UnmovableError:
            # The next step says what is not as planned.
            swap.close()
            self._restore_for_good()
        self._guard.enter(self._away_or_copied())

    def hand_over(self, swap: OnlineSwap) -> None:
        """Has everything back, between two steps, with what swaps on line making room for it."""
        self._guard.leave()
        try:
            self._executor.hand_over(swap)
        except BaseException:
            self._guard.enter(self._executor.away())
            raise

    def use_pool(self, pool: HostPool) -> None:
        """Keeps storages in another host pool from now on; none may be away."""
        self._executor.backend = replace(self._executor.backend, pool=pool)

    def summary(self) -> str:
        """Says in one line what was replayed so far; every figure is measured."""
        return self._history.summary()

    def timelines(self) -> tuple[Timeline, ...]:
        """Returns the last replayed steps as they were measured, in order, if they are traced.

        Blocks until their copies have ended.
        """
        times = self._tracing.times
        return () if times is None else times.timelines(len(self._course.schedule))

    def close(self) -> None:
        """Brings everything back, removes all hooks, ends the lanes and frees the host pool.

        It may be called at any time, and again. An interrupt is held back until it is done. The
        first time, `summary` is logged at level INFO by the logger `swapplan`.
        """
        insist(self._close)

    def _close(self) -> None:
        if self._step is not None and not self._step.is_over:
            now = self._step.statistics
            now.fallback = now.fallback or "the replay was closed inside the step"
        self._recover()
        self._anchors.close()
        self._attached.close()
        self._executor.close()
        if self._workers is not None:
            self._history.count_fallback_on(self._workers.close())
            self._workers = None
        self._history.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except BaseException as fault:
            if error is None:
                raise
            keep_in_view(error, fault)

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Does what the schedule says for the next anchor; see `profiles.hooks.anchors`."""
        step, course, times = self._step, self._course, self._tracing.times
        arrived = None if times is None else times.clock.mark()
        assert step is not None
        if step.statistics.fallback is not None:
            return
        watching = self._accountant.watching
        if watching:
            if self._is_passed_over(key):
                return
            self._compare_memory(step)
        slot = course.slot
        try:
            shows = course.check(key)
            if shows is not None:
                self._executor.check_shown(key, shows, storage_of(shown))
            actions = course.moves[slot]
            for action in actions:
                step.act(action, slot)
            if actions:
                self._executor.flush()
        except UnmovableError as error:
            self._fall_back(str(error))
        except torch.OutOfMemoryError:
            if not self._on_no_room():
                raise
        course.go_on()
        if watching:
            storage = storage_of(shown)
            if storage is not None:
                self._accountant.memory.count([storage])
            self._accountant.memory.open_slot()
        if times is not None:
            times.pass_anchor(slot, arrived)
        if step.statistics.fallback is None:
            self._fill(step, slot)

    def _fill(self, step: RunningStep, slot: int) -> None:
        """Rebuilds what the plan rebuilds in a slot that has begun; notes its ops from now on."""
        self._executor.recipes.capture.open_slot(slot)
        try:
            for action in self._course.fills[slot]:
                step.act(action, slot)
        except UnmovableError as error:
            self._fall_back(str(error))
        except torch.OutOfMemoryError:
            if not self._on_no_room():
                raise

    def _is_passed_over(self, key: str) -> bool:
        """Whether an anchor of a watched step is none of the plan's."""
        streams = self._executor.backend.streams
        if streams is not None:
            # A watched step goes first, and the others take the same course.
            streams.see_stream()
        self._first_steps.on_anchor(key)
        return self._first_steps.swap is not None or self._course.is_extra(key)

    def _compare_memory(self, step: RunningStep) -> None:
        """Compares the slots that have just ended with the plan; see `memory_curve`."""
        follows_plan = step.statistics.fallback is None and self._first_steps.swap is None
        # What a real device needs beyond storages is planned for and not counted.
        counts_as_planned = self._executor.backend.budget_bytes is not None
        if self._accountant.watching and follows_plan and counts_as_planned:
            self._course.compare_memory(self._accountant.memory)

    def _watched_step(self) -> AbstractContextManager[StepStatistics]:
        return self._statement(self._accountant, watched=True)

    def _statement(
        self, watch: AbstractContextManager[object], *, watched: bool = False
    ) -> AbstractContextManager[StepStatistics]:
        step = RunningStep(watch, watched, self._executor.act)
        return step.statement(self._enter_step, self._leave_step)

    def _enter_step(self, step: RunningStep) -> StepStatistics:
        self._check_may_begin()
        if self._workers is not None:
            self._history.count_fallback_on(self._workers.wait())
        now = step.statistics = StepStatistics(step=self._history.step_count)
        try:
            self._step = step
            step.start_ns = time.perf_counter_ns()
            self._guard.leave()
            if self._first_steps.begin():
                step.watch, step.watched = self._first_steps, True
            self._begin_step(step)
            self._attached.begin_step()
            step.watch.__enter__()
            if now.fallback is not None:
                self._accountant.lift()
            self._anchors.begin()
        except BaseException as error:
            step.is_left = True
            self._leave_step(step, error)
            raise
        return now

    def _check_may_begin(self) -> None:
        if self._history.is_closed:
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
        self._course.begin(self._history.step_count)
        self._history.step_count += 1
        step.act = self._tracing.begin(self._executor.act)
        self._executor.begin(now, watched=step.watched)
        if self._first_steps.swap is None:
            self._run_prologue(now)
        self._history.end_prologue(now)

    def _run_prologue(self, now: StepStatistics) -> None:
        """See [Note: entering the steady state] in `runtime.replay.swap_index`."""
        start_ns = time.perf_counter_ns()
        try:
            if not self._executor.are_held():
                self._restore_for_good()
                self._history.count_restore("a tensor that was replaced")
            self._executor.enter()
        except UnmovableError as error:
            self._fall_back(str(error))
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

    def _end_step(self, step: RunningStep) -> None:
        now = step.statistics
        now.overrun_us = self._executor.take_overrun_us()
        if now.fallback is None:
            self._settle(now)
        if now.fallback is None:
            step.is_over = True
            self._guard.enter(self._away_or_copied())
        else:
            self._restore_for_good()
            step.is_over = True
        self._step = None
        now.duration_us = (time.perf_counter_ns() - step.start_ns) / NS_PER_US
        if step.watched:
            now.peak_bytes = self._accountant.memory.peak_bytes
            now.memory_difference = self._course.memory.difference
        now.allocated_peak_bytes = self._executor.backend.allocated_peak_bytes()
        self._history.add(now, left_out=self._executor.left_out)

    def _away_or_copied(self) -> frozenset[int]:
        return frozenset(tracked.cdata for tracked in self._executor.tracked.values())

    def _settle(self, now: StepStatistics) -> None:
        """Leaves every storage where the plan has it when a step ends."""
        swap = self._first_steps.swap
        if swap is None:
            if self._tracing.times is not None:
                self._tracing.times.keep()
            self._executor.settle()
            return
        now.on_line = True
        now.skipped_swaps = self._executor.index.swap_count
        try:
            self._executor.take_over(swap)
        except UnmovableError as error:
            self._fall_back(str(error))
            return
        shortage = self._first_steps.end()
        if shortage is not None:
            self._history.warn_once(f"step {now.step} took more than the budget: {shortage}")

    def _recover_from(self, raised: BaseException) -> None:
        if self._step is None:
            return
        try:
            self._recover()
        except BaseException as fault:
            keep_in_view(raised, fault)

    def _recover(self) -> None:
        """Ends what an interrupt may have left unfinished: all is back, and no mode stays."""
        self._history.vouches = False
        if self._step is not None:
            self._stand_down(self._step)
        try:
            self._guard.end(self._restore_for_good)
        except BaseException:
            self._guard.enter(self._executor.away() | self._first_steps.away())
            raise
        finally:
            if self._step is not None:
                self._step.is_over = True
        self._step = None

    def _is_in_step(self) -> bool:
        return self._step is not None and not self._step.is_over

    def _on_miss(self, reason: str, cdata: int) -> None:
        assert self._step is not None
        if self._first_steps.hold(cdata):
            return
        self._step.statistics.misses += 1
        self._fall_back(reason)

    def _on_no_room(self) -> bool:
        """Falls back if there is no room for what cannot be moved; whether it did."""
        why, step = self._executor.lent.why_no_room, self._step
        if why is None or step is None or step.is_over or step.statistics.fallback is not None:
            return False
        self._fall_back(f"{why} the step does not fit within the budget")
        return True

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Has a storage there before code that is no op of the step gets at its memory."""
        self._first_steps.hold(storage._cdata)
        self._accountant.guarded.look("code that is no op", storage, writes=access is Access.WRITE)

    def on_state_dict(self) -> None:
        """Has everything back before a state_dict is read or loaded."""
        if self._is_in_step():
            self._fall_back("a state_dict was read or loaded inside the step")
        else:
            self._guard.touch("a state_dict")

    def on_forward(self) -> None:
        """Has everything back before the model is called between two steps."""
        if not self._is_in_step():
            self._guard.touch("a call of the model")

    def _fall_back(self, reason: str) -> None:
        assert self._step is not None
        now = self._step.statistics
        is_new = now.fallback is None
        if is_new:
            now.fallback = reason
        # Even if it is not: an interrupt may have kept some from coming back.
        self._bring_back()
        if is_new:
            self._history.warn_once(f"step {now.step} fell back to resident: {reason}")

    def _restore_for_good(self) -> None:
        """Brings every storage back; the next step looks all of them up anew."""
        self._bring_back()
        self._first_steps.swap = None
        self._executor.forget()

    def _bring_back(self) -> None:
        """Brings every storage back, whatever was going on; no budget holds until the step ends."""
        self._accountant.lift()
        self._first_steps.bring_back()
        self._executor.restore()
