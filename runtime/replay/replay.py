"""Replays a plan: at every anchor of a step, does what the schedule says, and nothing else.

Nothing is decided here. The one judgement is whether the step still is the one that was planned:
the next anchor has the expected key, and what it shows is the expected storage with the expected
bytes. If not, the step falls back: every storage comes back, and the rest of the step runs
resident, with numbers as right as ever and memory as large as ever.
"""

import logging
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Self

import torch

from planner.plan.plan import Plan
from planner.plan.schedule import Action, Schedule, lower
from profiles.hooks.anchors import AnchorHooks, Reported, is_update
from profiles.hooks.mode_stack import insist, keep_in_view
from profiles.hooks.named_storages import owned_storages
from profiles.recording.recorded_profile import device_of
from runtime.host.host_pool import HostPool
from runtime.lanes.timed import NS_PER_US
from runtime.replay.backend import Watch, backend_for
from runtime.replay.between_steps import AddressGuard, BoundaryGuard
from runtime.replay.ears import AttachedHooks
from runtime.replay.executor import SwapExecutor
from runtime.replay.failed_backward import let_go_of_failed_backward
from runtime.replay.first_step import FirstStep
from runtime.replay.lookup import storage_of
from runtime.replay.op_guard import GuardedOps, OpGuard
from runtime.replay.profiler_ranges import Act, ActionRanges, Ranges
from runtime.replay.running_step import RunningStep
from runtime.replay.statistics import StepStatistics, summary_line
from runtime.replay.workers import Workers
from runtime.storage.accountant import Accountant
from runtime.storage.memory_curve import MemoryCurve
from runtime.storage.residency import TrackedStorage, UnmovableError
from runtime.storage.write_marks import WriteMarks


class HeardSlots:
    """The slots of a plan whose anchors are reported.

    [Note: updates that nobody planned for] Finding updates costs time for each op, so they are
    reported only if the plan has an action at one of them; if not, their slots are passed over.
    And the first step may reach parameters more often than the recorded one: `foreach` optimizers
    update all of them at once, but some make their states one by one. An update that is not the
    next of the plan tells nothing of the step's course, then.

    Attributes:
        reported: Which anchors have to be reported.
    """

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self._anchors = tuple(slot.anchor for slot in plan.slots)
        acts = any(is_update(key) and row for key, row in zip(self._anchors, schedule, strict=True))
        self.reported = Reported.EVERYTHING if acts else Reported.ALL_BUT_UPDATES

    def is_extra(self, key: str, slot: int) -> bool:
        """Whether an anchor is an update, but not the one that opens a slot."""
        return is_update(key) and self._anchors[slot : slot + 1] != (key,)

    def after(self, slot: int) -> int:
        """Returns the slot whose anchor is heard next."""
        slot += 1
        if self.reported is Reported.ALL_BUT_UPDATES:
            while slot < len(self._anchors) and is_update(self._anchors[slot]):
                slot += 1
        return slot


KEPT_STEPS = 1024

MOST_STEPS_WITHOUT_UPDATE = 8
"""A loss scaler may skip the first updates while it finds its scale. Steps that go on without one
are not the steps of the plan, and following it says so."""

LOG = logging.getLogger("swapplan")

OnStep = Callable[[StepStatistics], None]


class FallbackWarning(RuntimeWarning):
    """A step did not run as planned and was run resident; told once for each replay."""


class Replay:
    """A plan attached to a model. Use it as a context manager, or call `close`.

    Between steps parameters, buffers and optimizer states may be on the host. Whoever touches one
    of them there, to evaluate, save, load or log, first brings all of them back, and the next step
    sends them away again (see `runtime.replay.between_steps` for who is seen). Once the replay is
    closed everything is resident. Inside a step, `state_dict()` brings everything back first.

    An interrupt may come at any point: whatever it leaves unfinished is brought to an end by what
    comes next, be it the end of the step, the next step or `close`.

    Attributes:
        steps: Statistics of the last steps, in order; at most `KEPT_STEPS`.
        fallbacks: How many steps fell back to resident, of all.
        boundary_restores: How many times everything was brought back between two steps.
    """

    def __init__(
        self,
        plan: Plan,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        workers: Workers | None = None,
        ranges: Ranges = Ranges.TORCH_PROFILER,
    ) -> None:
        self.steps: deque[StepStatistics] = deque(maxlen=KEPT_STEPS)
        self.fallbacks = 0
        self.boundary_restores = 0
        self._plan = plan
        self._schedule = lower(plan)
        self._workers = workers
        self._model = model
        self._optimizer = optimizer
        self._parameters = dict(model.named_parameters())
        self._ranges = ActionRanges(ranges, plan)
        self._do: Act = self._act
        device = device_of(model)
        self._backend = backend_for(plan, device)
        self._accountant = Accountant(device, self._backend.budget_bytes)
        self._accountant.when_forbidden_use(self._on_miss)
        self._accountant.when_no_room(self._on_no_room)
        self._heard = HeardSlots(plan, self._schedule)
        self._op_guard = OpGuard(self._accountant.guarded)
        self._moves = SwapExecutor(
            plan, model, optimizer, self._backend, self._accountant, WriteMarks(device)
        )
        self._guard = BoundaryGuard(self._restore_between_steps)
        self._addresses = AddressGuard(self._accountant, self._guard)
        # What a real device needs beyond storages is planned for and not counted.
        self._counts_as_planned = self._backend.budget_bytes is not None
        self._curve = MemoryCurve(plan)
        self._first: FirstStep | None = None
        self._never_made: frozenset[int] = frozenset()
        self._steps_without_update = 0
        self._slot = 0
        self._begun = range(0)
        self._step_count = 0
        self._now: StepStatistics | None = None
        self._on_step: OnStep | None = None
        self._told = False
        self._passed = False
        self._restores_told = 0
        self._closed = False
        self._unfinished: weakref.ref[RunningStep] | None = None
        self._ears = AttachedHooks(self)
        try:
            self._ears.listen(model, optimizer)
            self._hooks = AnchorHooks(model, optimizer, self._ears, self._heard.reported)
            self._hooks.relieve(self._op_guard)
        except BaseException:
            self._ears.close()
            self._addresses.remove()
            raise

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
        if self._backend.watch is Watch.UNTIL_REPLAYED:
            return self.unwatched_step()
        return self._watched_step()

    def unwatched_step(self) -> AbstractContextManager[StepStatistics]:
        """Replays the plan without counting memory, once a watched step has passed.

        [Note: unwatched steps] Counting memory takes several times as long as looking whether an
        op touches what is away. So a step goes uncounted only if the one before made all the
        plan's trips to the end, and the first such step was watched; otherwise this one is
        watched, too. Its ops are looked at all the same; see [Note: guarded steps] in
        `runtime.replay.op_guard` for what is seen.
        """
        if self._passed:
            return self._step(GuardedOps(self._op_guard))
        return self._watched_step()

    def unguarded_step(self) -> AbstractContextManager[StepStatistics]:
        """Replays the plan without looking at any op, once a watched step has passed.

        For steps that surely do the same every time, and whose time is spent on small ops. Nothing
        in this library uses it by itself. An op that the recorded step did not have and that no
        anchor announces is not seen:

        - On a storage that is away it ends the process; where torch has been built for CUDA, it
          raises RuntimeError.
        - Reading one whose bytes are on their way back gives wrong numbers, silently.
        - On CUDA, writing one whose bytes are on their way in either direction loses the write,
          and so does writing through `.data` one whose host copy is kept. On the emulated device
          such a write is found later (see `runtime.storage.write_marks`).
        """
        if self._passed:
            return self._step(nullcontext())
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
        self._accountant.count(storages)

    def call_each_step(self, callback: OnStep) -> None:
        """Sets a function that is called with the statistics of every step when it ends.

        It runs when the step has ended. That another worker fell back is not known by then (see
        `StepStatistics.fallback`). What it raises ends the training.
        """
        self._on_step = callback

    def summary(self) -> str:
        """Says in one line what was replayed so far; every figure is measured."""
        return summary_line(
            self._plan, self.steps, step_count=self._step_count, fallbacks=self.fallbacks
        )

    def close(self) -> None:
        """Brings everything back, removes all hooks, ends the lanes and frees the host pool.

        It may be called at any time, and again. An interrupt is held back until it is done. The
        first time, `summary` is logged at level INFO by the logger `swapplan`.
        """
        insist(self._close)

    def _close(self) -> None:
        if self._now is not None and self._now.fallback is None:
            self._now.fallback = "the replay was closed inside the step"
        self._recover()
        self._hooks.close()
        self._addresses.remove()
        self._ears.close()
        self._moves.close()
        self._backend = replace(self._backend, pool=HostPool(0))
        if self._workers is not None:
            self._count_fallback_on(self._workers.close())
            self._workers = None
        if not self._closed:
            self._closed = True
            LOG.info("%s", self.summary())

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
        assert self._now is not None
        if self._now.fallback is not None:
            return
        if self._accountant.watching:
            if self._backend.streams is not None:
                # A watched step goes first, and the others take the same course.
                self._backend.streams.see_stream()
            if self._first is not None:
                self._first.on_anchor(key)
                return
            if self._heard.is_extra(key, self._slot):
                return
        self._compare_memory()
        try:
            self._check_anchor(key, shown)
            actions = self._schedule[self._slot]
            for action in actions:
                self._do(action)
            if actions:
                self._moves.flush()
        except UnmovableError as error:
            self._fall_back(str(error))
        except torch.OutOfMemoryError:
            if not self._on_no_room():
                raise
        self._open_slot(shown)

    def _open_slot(self, shown: torch.Tensor | None) -> None:
        """Goes on to the slot whose anchor has been reached."""
        self._begun = range(self._slot, self._heard.after(self._slot))
        self._slot = self._begun.stop
        if self._accountant.watching:
            storage = storage_of(shown)
            if storage is not None:
                self._accountant.count([storage])
            self._accountant.open_slot()

    def _compare_memory(self) -> None:
        """Compares the slots that have just ended with the plan; see `memory_curve`."""
        assert self._now is not None
        follows_plan = self._now.fallback is None and self._first is None
        counts = self._accountant.watching and self._counts_as_planned
        if counts and follows_plan and self._begun:
            peak_bytes = self._accountant.slot_peak_bytes
            self._curve.compare(self._begun, peak_bytes, self._accountant.counted)

    def _watched_step(self) -> AbstractContextManager[StepStatistics]:
        return self._step(self._accountant.watch(), watched=True)

    def _step(self, watch: AbstractContextManager[object], *, watched: bool = False) -> RunningStep:
        return RunningStep(watch, watched=watched, enter=self._enter_step, leave=self._leave_step)

    def _enter_step(self, step: RunningStep) -> StepStatistics:
        self._check_may_begin()
        if self._workers is not None:
            self._count_fallback_on(self._workers.hear())
        now = StepStatistics(step=self._step_count)
        try:
            self._unfinished = weakref.ref(step)
            self._now = now
            step.start_ns = time.perf_counter_ns()
            self._guard.leave()
            self._first = self._first_step()
            if self._first is not None:
                step.watch, step.watched = self._first, True
            self._begin_step(now, watched=step.watched)
            self._addresses.begin_step()
            step.watch.__enter__()
            if now.fallback is not None:
                self._accountant.lift()
            self._hooks.begin()
        except BaseException as error:
            step.is_left = True
            self._leave_step(step, error)
            raise
        return now

    def _check_may_begin(self) -> None:
        if self._closed:
            raise RuntimeError(
                "This replay is closed, so it has no more steps. Attach the plan again for more."
            )
        if self._unfinished is None:
            return
        step = self._unfinished()
        if step is not None and not step.is_left:
            raise RuntimeError("replay.step() is already running; steps cannot be nested.")
        self._recover()

    def _leave_step(self, step: RunningStep, error: BaseException | None) -> None:
        now = self._now
        if now is None or self._unfinished is None or self._unfinished() is not step:
            # The replay has been closed meanwhile.
            return
        try:
            if error is None:
                self._hooks.finish()
            if error is None or isinstance(error, torch.OutOfMemoryError):
                self._compare_memory()
        except BaseException as raised:
            self._end_failed_step(step, now, raised)
            raise
        if error is not None:
            self._end_failed_step(step, now, error)
            return
        try:
            self._stand_down(step)
            if self._workers is not None:
                self._workers.tell(fell_back=now.fallback is not None)
            self._end_step(now, step.start_ns, watched=step.watched)
        except BaseException as raised:
            self._recover_from(raised)
            raise

    def _end_failed_step(
        self, step: RunningStep, now: StepStatistics, error: BaseException
    ) -> None:
        """Ends a step that has raised; what else may be raised here must not hide that."""
        now.fallback = now.fallback or f"the step raised {type(error).__name__}"
        try:
            self._stand_down(step)
            if self._workers is not None:
                self._workers.withhold()
            self._end_step(now, step.start_ns, watched=step.watched)
            let_go_of_failed_backward()
        except BaseException as fault:
            self._recover_from(fault)
            keep_in_view(error, fault)

    def _stand_down(self, step: RunningStep) -> None:
        """Hears and sees no more of a step."""
        self._hooks.leave()
        self._addresses.end_step()
        step.watch.__exit__(None, None, None)

    def _recover_from(self, raised: BaseException) -> None:
        if self._unfinished is None:
            return
        try:
            self._recover()
        except BaseException as fault:
            keep_in_view(raised, fault)

    def _recover(self) -> None:
        """Ends what an interrupt may have left unfinished: all is back, and no mode stays."""
        self._passed = False
        self._hooks.leave()
        self._addresses.end_step()
        self._accountant.end_watch()
        self._op_guard.end()
        if self._first is not None:
            self._first.__exit__()
        try:
            self._guard.end(self._restore_for_good)
        except BaseException:
            self._guard.enter(self._moves.away())
            raise
        finally:
            self._now = None
        self._unfinished = None

    def _begin_step(self, now: StepStatistics, *, watched: bool) -> None:
        self._slot, self._begun = 0, range(0)
        self._curve.begin(self._step_count)
        self._step_count += 1
        self._do = self._ranges.around(self._act)
        self._moves.begin(now)
        if watched:
            self._accountant.count_owned(owned_storages(self._model, self._optimizer))
        if self._first is None:
            self._run_prologue(now)
        now.boundary_restores = self.boundary_restores - self._restores_told
        self._restores_told = self.boundary_restores

    def _run_prologue(self, now: StepStatistics) -> None:
        """See [Note: entering the steady state] in `runtime.replay.cyclic_swaps`."""
        start_ns = time.perf_counter_ns()
        try:
            if not self._moves.are_held():
                self._restore_between_steps("a tensor that was replaced")
            self._check_parameters()
            self._moves.enter()
        except UnmovableError as error:
            self._fall_back(str(error))
        now.prologue_bytes, now.d2h_bytes = now.d2h_bytes, 0
        now.prologue_us = (time.perf_counter_ns() - start_ns) / NS_PER_US

    def _check_parameters(self) -> None:
        """Checks that the model still has the parameters whose anchors are known.

        Raises:
            UnmovableError: One was replaced. What it replaced may still be alive, too.
        """
        for name, parameter in self._model.named_parameters():
            if self._parameters.get(name) is not parameter:
                raise UnmovableError(
                    f"parameter {name!r} was replaced since the plan was attached, attach it again"
                )

    def _restore_between_steps(self, what: str) -> None:
        if self.boundary_restores == 0:
            LOG.info(
                "Between two steps %s asked for what the plan has away: everything was brought "
                "back, and the next step sends it away again. Told once.",
                what,
            )
        self._restore_for_good()
        self.boundary_restores += 1

    def _end_step(self, now: StepStatistics, start_ns: int, *, watched: bool) -> None:
        now.overrun_us = self._moves.take_overrun_us()
        if now.fallback is None:
            self._settle(now)
            self._now = None
            self._guard.enter(frozenset(t.cdata for t in self._moves.tracked.values()))
        else:
            self._restore_for_good()
            self._now = None
        self._unfinished = None
        now.duration_us = (time.perf_counter_ns() - start_ns) / NS_PER_US
        if watched:
            now.peak_bytes = self._accountant.peak_bytes
            now.memory_difference = self._curve.difference
        now.allocated_peak_bytes = self._backend.allocated_peak_bytes()
        self.steps.append(now)
        self.fallbacks += now.fallback is not None
        vouches = self._passed or not self._moves.left_out
        self._passed = vouches and now.fallback is None and now.skipped_swaps == 0
        if self._on_step is not None:
            self._on_step(now)

    def _close_first(self) -> None:
        if self._first is not None:
            self._first.close()
            self._first = None

    def _first_step(self) -> FirstStep | None:
        """Returns what runs the step if some of what the plan moves has still to be made."""
        if not self._moves.missing() - self._never_made:
            return None
        return FirstStep(
            device_of(self._model),
            self._backend,
            self._accountant,
            budget_bytes=self._plan.budget_bytes,
            owned=partial(owned_storages, self._model, self._optimizer),
        )

    def _settle(self, now: StepStatistics) -> None:
        """Leaves every storage where the plan has it when a step ends."""
        if self._first is None:
            self._moves.settle()
            return
        now.on_line = True
        now.skipped_swaps = len(self._plan.swaps)
        try:
            self._moves.take_over(self._first)
        except UnmovableError as error:
            now.fallback = str(error)
            self._restore_for_good()
            self._tell_once(f"step {now.step} fell back to resident: {error}")
            return
        self._steps_without_update = (
            0 if self._first.has_updated else self._steps_without_update + 1
        )
        if self._first.has_updated or self._steps_without_update == MOST_STEPS_WITHOUT_UPDATE:
            # What an update has not made the next one is not expected to make either.
            self._never_made = self._moves.missing()
        if self._first.shortage is not None:
            self._tell_once(f"step {now.step} took more than the budget: {self._first.shortage}")
        self._first = None

    def _check_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        slots = self._plan.slots
        if self._slot >= len(slots):
            raise UnmovableError(f"anchor {self._slot} is {key!r}, the plan has ended")
        expected = slots[self._slot]
        if key != expected.anchor:
            raise UnmovableError(f"anchor {self._slot} is {key!r}, planned {expected.anchor!r}")
        if expected.shows is not None:
            self._moves.check_shown(key, expected.shows, storage_of(shown))

    def _act(self, action: Action) -> None:
        self._moves.act(action, self._slot)

    def _on_miss(self, reason: str, tracked: TrackedStorage) -> None:
        assert self._now is not None
        if self._first is not None and self._first.hold(tracked.cdata):
            return
        self._now.misses += 1
        self._fall_back(reason)

    def _on_no_room(self) -> bool:
        """Falls back if there is no room for what cannot be moved; whether it did."""
        why = self._moves.why_no_room
        if self._now is None or self._now.fallback is not None or why is None:
            return False
        self._fall_back(f"{why} the step does not fit within the budget")
        return True

    def on_state_dict(self) -> None:
        """Has everything back before a state_dict is read or loaded."""
        if self._now is None:
            self._guard.touch("a state_dict")
        else:
            self._fall_back("a state_dict was read or loaded inside the step")

    def on_forward(self) -> None:
        """Has everything back before the model is called between two steps."""
        if self._now is None:
            self._guard.touch("a call of the model")

    def _fall_back(self, reason: str) -> None:
        assert self._now is not None
        if self._now.fallback is not None:
            # An interrupt may have kept some from coming back.
            self._moves.restore()
            return
        self._now.fallback = reason
        self._accountant.lift()
        if self._first is not None:
            self._first.close()
        self._moves.restore()
        self._tell_once(f"step {self._now.step} fell back to resident: {reason}")

    def _count_fallback_on(self, rank: int | None) -> None:
        """Counts the last step as fallen back if it did so on another worker."""
        if rank is None or not self.steps or self.steps[-1].fallback is not None:
            return
        self.steps[-1].fallback = f"worker {rank} fell back to resident"
        self.fallbacks += 1
        self._tell_once(f"step {self.steps[-1].step} fell back to resident on worker {rank}")

    def _tell_once(self, event: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(
                f"{event}. Its numbers are right, its memory is not planned. Record this step "
                "again with 'plan profile' if it is the usual one.",
                FallbackWarning,
                stacklevel=2,
            )

    def _restore_for_good(self) -> None:
        """Brings every storage back; the next step looks all of them up anew."""
        self._close_first()
        self._moves.restore()
        self._moves.tracked.clear()
