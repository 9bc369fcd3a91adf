"""A plan attached to a model, as its caller holds it.

Nothing is decided here: each step does what the plan says at each anchor, and nothing else
(`runtime.replay.stepper`).
"""

from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Self

import torch

from planner.plan.plan import Plan
from planner.plan.simulate import Timeline
from profiles.hooks.mode_stack import insist, keep_in_view
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.host.host_pool import HostPool
from runtime.replay.backend import Watch
from runtime.replay.first_step import OffPlan
from runtime.replay.statistics import StepStatistics
from runtime.replay.stepper import Stepper
from runtime.replay.timeline import Ranges
from runtime.replay.workers import Workers
from runtime.storage.residency import UnmovableError


class Replay:
    """A plan attached to a model. Use it as a context manager, or call `close`.

    Between steps parameters, buffers and optimizer states may be on the host. Code that touches one
    of them there, to evaluate, save, load or log, first has all of them brought back, and the next
    step sends them away again (see `runtime.replay.between_steps` for what is seen). Once the
    replay is closed everything is resident. Inside a step a `state_dict` may be read, or copied
    into a module; one that puts other tensors in the place of those there brings all back first.

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
        off_plan: OffPlan = OffPlan.RESIDENT,
    ) -> None:
        self._stepper = Stepper(
            plan, model, optimizer, workers, ranges, traced=traced, pool=pool, off_plan=off_plan
        )

    @property
    def steps(self) -> deque[StepStatistics]:
        """Statistics of the last steps, in order; at most `KEPT_STEPS`."""
        return self._stepper.history.steps

    @property
    def fallbacks(self) -> int:
        """How many steps fell back to resident, of all."""
        return self._stepper.history.fallbacks

    @property
    def left_plan(self) -> int:
        """How many steps left the plan and were swapped on line from there, of all."""
        return self._stepper.history.left_plan

    @property
    def shortcuts(self) -> int:
        """How many steps skipped an update and went on by the plan behind it, of all."""
        return self._stepper.history.shortcuts

    @property
    def boundary_restores(self) -> int:
        """How many times everything was brought back between two steps."""
        return self._stepper.history.boundary_restores

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
        if self._stepper.executor.backend.watch is Watch.UNTIL_REPLAYED:
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
        if self._stepper.history.vouches:
            return self._stepper.statement(self._stepper.op_guard)
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
        if self._stepper.course.rebuilds:
            return self.unwatched_step()
        if self._stepper.history.vouches:
            return self._stepper.statement(nullcontext())
        return self._watched_step()

    def unguarded(self) -> AbstractContextManager[None]:
        """Leaves the code inside, between two steps, without a guard.

        The guard looks at every op of this thread, which takes some microseconds each. This is for
        code that surely touches nothing that the model or the optimizer owns, or does so only by
        calling the model or its `state_dict`, such as a long evaluation.
        """
        return self._stepper.guard.suspended()

    def count(self, storages: Iterable[torch.UntypedStorage]) -> None:
        """Counts storages of the emulated device that no op of a step may ever touch."""
        self._stepper.accountant.memory.count(storages)

    def take_over(self, swap: OnlineSwap) -> None:
        """Has everything where the plan has it between two steps, from what has swapped on line."""
        try:
            self._stepper.executor.take_over(swap)
        except UnmovableError:
            # The next step says what is not as planned.
            swap.close()
            self._stepper.departure.restore_for_good()
        finally:
            self._stepper.guard_between_steps()

    def hand_over(self, swap: OnlineSwap) -> None:
        """Has everything back, between two steps, with what swaps on line making room for it."""
        self._stepper.guard.leave()
        try:
            self._stepper.executor.hand_over(swap)
        except BaseException:
            self._stepper.guard_between_steps()
            raise

    def use_pool(self, pool: HostPool) -> None:
        """Keeps storages in another host pool from now on; none may be away."""
        executor = self._stepper.executor
        executor.backend = replace(executor.backend, pool=pool)

    def summary(self) -> str:
        """Says in one line what was replayed so far; every figure is measured."""
        return self._stepper.history.summary()

    def timelines(self) -> tuple[Timeline, ...]:
        """Returns the last replayed steps as they were measured, in order, if they are traced.

        Blocks until their copies have ended.
        """
        times = self._stepper.tracing.times
        return () if times is None else times.timelines(len(self._stepper.course.schedule))

    def close(self) -> None:
        """Brings everything back, removes all hooks, ends the lanes and frees the host pool.

        It may be called at any time, and again. An interrupt is held back until it is done. The
        first time, `summary` is logged at level INFO by the logger `swapplan`.
        """
        insist(self._stepper.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except BaseException as fault:
            if error is None:
                raise
            keep_in_view(error, fault)

    def _watched_step(self) -> AbstractContextManager[StepStatistics]:
        return self._stepper.statement(self._stepper.accountant, watched=True)
