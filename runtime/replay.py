"""Replays a plan: at every anchor of a step, does what the schedule says, and nothing else.

Nothing is decided here. The one judgement is whether the step still is the one that was planned:
the next anchor has the expected key, and what it shows is the expected storage with the expected
bytes. If not, the step falls back: every storage comes back, and the rest of the step runs
resident, with numbers as right as ever and memory as large as ever.
"""

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch

from planner.plan import Plan
from planner.schedule import Action, lower
from profiles.anchors import AnchorHooks
from profiles.own_hook import OwnHook
from profiles.owned import owned_storages
from profiles.recording import device_of
from runtime.accountant import Accountant
from runtime.backend import Watch, backend_for
from runtime.binding import storage_of
from runtime.boundary_guard import BoundaryGuard
from runtime.heard_slots import HeardSlots
from runtime.lanes import NS_PER_US
from runtime.moves import Moves
from runtime.op_guard import OpGuard
from runtime.ranges import Act, ActionRanges, Ranges
from runtime.residency import TrackedStorage, UnmovableError
from runtime.statistics import StepStatistics
from runtime.summary import summary_line
from runtime.workers import Workers
from runtime.write_marks import WriteMarks

KEPT_STEPS = 1024

LOG = logging.getLogger("swapplan")

OnStep = Callable[[StepStatistics], None]


class FallbackWarning(RuntimeWarning):
    """A step did not run as planned and was run resident; told once for each replay."""


class Replay:
    """A plan attached to a model. Use it as a context manager, or call `close`.

    Between steps parameters, buffers and optimizer states may be on the host. Whoever touches one
    of them there, to evaluate, save, load or log, first brings all of them back, and the next step
    sends them away again (see `runtime.boundary_guard` for who is seen). Once the replay is closed
    everything is resident. Inside a step, `state_dict()` brings everything back first.

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
        self._ranges = ActionRanges(ranges, plan)
        self._do: Act = self._act
        device = device_of(model)
        self._backend = backend_for(plan, device)
        self._accountant = Accountant(device, self._backend.budget_bytes)
        self._accountant.when_forbidden_use(self._on_miss)
        self._heard = HeardSlots(plan, self._schedule)
        self._op_guard = OpGuard(self._accountant.guarded)
        self._moves = Moves(
            plan, model, optimizer, self._backend, self._accountant, WriteMarks(device)
        )
        self._hooks = AnchorHooks(model, optimizer, self, self._heard.reported)
        self._hooks.relieve(self._op_guard)
        self._guard = BoundaryGuard(self._restore_between_steps)
        self._handles = _before_state_dict(model, optimizer, self._on_state_dict)
        self._handles += _before_forward(model, self._on_forward)
        self._slot = 0
        self._step_count = 0
        self._now: StepStatistics | None = None
        self._on_step: OnStep | None = None
        self._told = False
        self._passed = False
        self._restores_told = 0
        self._closed = False

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
        `runtime.op_guard` for what is seen.
        """
        if self._passed:
            return self._step(self._op_guard)
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
          such a write is found later (see `runtime.write_marks`).
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
        """Brings everything back, removes all hooks and ends the lanes.

        The first time, `summary` is logged at level INFO by the logger `swapplan`.
        """
        self._guard.leave()
        self._moves.restore()
        self._hooks.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._moves.close()
        if self._workers is not None:
            self._count_fallback_on(self._workers.close())
            self._workers = None
        if not self._closed:
            self._closed = True
            LOG.info("%s", self.summary())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Does what the schedule says for the next anchor; see `profiles.anchors`."""
        assert self._now is not None
        if self._now.fallback is not None:
            return
        if self._accountant.watching:
            if self._backend.streams is not None:
                # A watched step goes first, and the others take the same course.
                self._backend.streams.see_stream()
            if self._heard.is_extra(key, self._slot):
                return
        try:
            self._check_anchor(key, shown)
            actions = self._schedule[self._slot]
            for action in actions:
                self._do(action)
            if actions:
                self._moves.flush()
        except UnmovableError as error:
            self._fall_back(str(error))
        self._moves.look_out_for_states(key, self._slot, self._fall_back)
        self._slot = self._heard.after(self._slot)

    def _watched_step(self) -> AbstractContextManager[StepStatistics]:
        return self._step(self._accountant.watch(), watched=True)

    @contextmanager
    def _step(
        self, watch: AbstractContextManager[object], *, watched: bool = False
    ) -> Iterator[StepStatistics]:
        if self._now is not None:
            raise RuntimeError("replay.step() is already running; steps cannot be nested.")
        if self._workers is not None:
            self._count_fallback_on(self._workers.hear())
        now = self._now = StepStatistics(step=self._step_count)
        start_ns = time.perf_counter_ns()
        try:
            self._begin_step(now, watched=watched)
            with watch:
                if now.fallback is not None:
                    self._accountant.lift()
                with self._hooks.step():
                    yield now
        except BaseException as error:
            now.fallback = now.fallback or f"the step raised {type(error).__name__}"
            if self._workers is not None:
                self._workers.withhold()
            raise
        else:
            if self._workers is not None:
                self._workers.tell(fell_back=now.fallback is not None)
        finally:
            self._end_step(now, start_ns, watched=watched)

    def _begin_step(self, now: StepStatistics, *, watched: bool) -> None:
        self._guard.leave()
        self._slot = 0
        self._step_count += 1
        self._do = self._ranges.around(self._act)
        self._moves.begin(now)
        if watched:
            self._accountant.count_owned(owned_storages(self._model, self._optimizer))
        self._run_prologue(now)
        now.boundary_restores = self.boundary_restores - self._restores_told
        self._restores_told = self.boundary_restores

    def _run_prologue(self, now: StepStatistics) -> None:
        """See [Note: entering the steady state] in `runtime.boundary_trips`."""
        start_ns = time.perf_counter_ns()
        try:
            if not self._moves.are_held():
                self._restore_between_steps("a tensor that was replaced")
            self._moves.enter()
        except UnmovableError as error:
            self._fall_back(str(error))
        now.prologue_bytes, now.d2h_bytes = now.d2h_bytes, 0
        now.prologue_us = (time.perf_counter_ns() - start_ns) / NS_PER_US

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
        # Whatever happens below, this step is over: another one may follow, or `close`.
        self._now = None
        try:
            if now.fallback is None:
                self._moves.settle()
                self._guard.enter(frozenset(t.cdata for t in self._moves.tracked.values()))
            else:
                self._restore_for_good()
        except BaseException:
            self._passed = False
            self._moves.restore()
            raise
        now.duration_us = (time.perf_counter_ns() - start_ns) / NS_PER_US
        if watched:
            now.peak_bytes = self._accountant.peak_bytes
        now.allocated_peak_bytes = self._backend.allocated_peak_bytes()
        self.steps.append(now)
        self.fallbacks += now.fallback is not None
        vouches = self._passed or not self._moves.left_out
        self._passed = vouches and now.fallback is None and now.skipped_swaps == 0
        if self._on_step is not None:
            self._on_step(now)

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
        if self._moves.take_back(tracked):
            return
        self._now.misses += 1
        self._fall_back(reason)

    def _on_state_dict(self, *_: Any) -> None:
        if self._now is None:
            self._guard.touch("a state_dict")
        elif self._now.fallback is None:
            self._fall_back("a state_dict was read or loaded inside the step")

    def _on_forward(self, *_: Any) -> None:
        if self._now is None:
            self._guard.touch("a call of the model")

    def _fall_back(self, reason: str) -> None:
        assert self._now is not None
        if self._now.fallback is not None:
            return
        self._now.fallback = reason
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
        self._moves.restore()
        self._moves.tracked.clear()


def _before_state_dict(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, hook: Callable[..., None]
) -> list[Any]:
    """Calls a hook before a state_dict of the model, its modules or the optimizer is used."""
    hook = OwnHook(hook)
    handles: list[Any] = [
        optimizer.register_state_dict_pre_hook(hook),
        optimizer.register_load_state_dict_pre_hook(hook),
    ]
    for module in model.modules():
        handles.append(module.register_state_dict_pre_hook(hook))
        handles.append(module.register_load_state_dict_pre_hook(hook))
    return handles


def _before_forward(model: torch.nn.Module, hook: Callable[..., None]) -> list[Any]:
    """Calls a hook before the forward of the model or any of its modules, in any thread."""
    own = OwnHook(hook)
    return [module.register_forward_pre_hook(own) for module in model.modules()]
