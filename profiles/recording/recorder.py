"""Records one training step in the loop that runs it.

Each pass watches steps of its own by one instrument, so that none disturbs another's figures:

1. warm-up, until the optimizer's states exist and the times of steps settle;
2. the trace: ops, storages, anchors (`trace`), of a step that finds what the one before left;
3. the time from each anchor to the next, a few times, with nothing else watching (`clocks`);
4. on a GPU, the time of each op's kernels (`kernel_times`);
5. on an accelerator, the allocator's own peak in each slot, and then what each op takes while it
   runs (`allocator_peaks`).
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.several_optimizers import OneOrSeveral
from profiles.hooks.workload import CallersVariables, Training, bare_optimizer
from profiles.recording.allocator_peaks import with_overhead, with_workspaces
from profiles.recording.device import Instruments, device_of, instruments_for
from profiles.recording.passes import (
    Held,
    KernelPass,
    MemoryPass,
    Pass,
    TimingPass,
    TracePass,
    WarmUpPass,
)
from profiles.recording.recording import Recording, profile_of
from profiles.recording.trace import StepTrace
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import Link, Profile, WorkloadSource
from profiles.schema.progress import Progress, silent

IN_A_LOOP = WorkloadSource(reference="", settings=(), seed=0)
"""Of steps that no command can build again: they are recorded where they run."""


class Recorder:
    """Records a training step: put `with recorder.step():` around each step of a loop.

    The steps are the loop's own, and no number of theirs changes. Once `is_done`, `profile` returns
    what one step does, and further steps run as if there were no recorder.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: OneOrSeveral,
        *,
        warmup_steps: int = 2,
        timed_steps: int = 3,
        progress: Progress | None = None,
        instruments: Instruments | None = None,
        hooks: AnchorHooks | None = None,
        checkpointing: bool = True,
    ) -> None:
        """Prepares to record; nothing is hooked before the first step.

        Args:
            model: The model, on the device to record on.
            optimizer: Its optimizer, or a list of those that the step calls; one that a library has
                wrapped is taken out of its wrapper.
            warmup_steps: Steps before recording, at least; more until their times settle.
            timed_steps: Steps whose median gives each slot's duration; at least one.
            progress: Called at every step.
            instruments: What to measure with; those of the device if None.
            hooks: What finds the model's anchors, if something does already.
            checkpointing: Whether activation checkpointing that the model has is kept. If not, it
                is switched off in these steps, and in those that replay a plan for them.

        Raises:
            WorkloadError: What is given is no model or no optimizer, or they do not belong
                together; or checkpointing cannot be switched off.
        """
        self._checkpointing = Checkpointing(kept=checkpointing)
        self._training = Training(model=model, optimizer=bare_optimizer(optimizer))
        self._hooks, self._own_hooks = hooks, hooks is None
        device = device_of(model)
        tools = instruments or instruments_for(device)
        self._progress = progress or silent
        self._warm_up = WarmUpPass(tools.clock, warmup_steps)
        self._traced = TracePass(self._training, StepTrace(device))
        self._timing = TimingPass(self._traced, tools.clock, timed_steps)
        self._kernels, self._memory = None, None
        if tools.kernels is not None:
            self._kernels = KernelPass(self._traced, self._timing, tools.kernels, tools.otherwise)
        if tools.memory is not None:
            self._memory = MemoryPass(self._traced, tools.memory)
        wanted = (self._warm_up, self._traced, self._timing, self._kernels, self._memory)
        self._passes: list[Pass] = [one for one in wanted if one is not None]

    @property
    def is_done(self) -> bool:
        """Whether enough steps have been seen."""
        return not self._passes

    def step(self) -> AbstractContextManager[None]:
        """Records the training step that is run inside.

        Raises:
            WorkloadError: It takes another course than the steps before, or never calls the
                optimizer.
        """
        return self.step_of(CallersVariables(sys._getframe(1)))

    @contextmanager
    def step_of(self, held: Held) -> Iterator[None]:
        """Records the step that is run inside, of which `held` returns what else it can reach."""
        if self.is_done:
            yield
            return
        now = self._passes[0]
        self._progress(now.doing, now.done, now.wanted)
        if self._hooks is None:
            self._hooks = AnchorHooks(self._training.model, self._training.optimizer)
        with self._checkpointing, now.step(self._hooks, held):
            # Most passes do not ask; see [Note: frames of callers] in `profiles.hooks.workload`.
            held()
            yield
        if now.is_over:
            self._progress(now.doing, now.done, now.done)
            self._passes.pop(0)
        if self.is_done:
            self.close()

    def close(self) -> None:
        """Takes its hooks off the model; to be called if a recording is given up."""
        if self._own_hooks and self._hooks is not None:
            self._hooks.close()
            self._hooks = None

    def profile(self, *, link: Link, source: WorkloadSource = IN_A_LOOP) -> Profile:
        """Returns what one step does.

        Args:
            link: The link to the host that plans are to be made for.
            source: How to build the step again, if a command can.

        Raises:
            WorkloadError: Not enough steps have been seen.
        """
        if not self.is_done:
            now = self._passes[0]
            raise WorkloadError(
                f"The recording is not done: it is still {now.doing}. Run more steps inside "
                "recorder.step(), until recorder.is_done."
            )
        traced = self._traced
        recording = Recording(
            durations_us=self._timing.slots_us(),
            ops=self._kernels.ops if self._kernels else tuple(traced.trace.ops),
            anchors=tuple(traced.trace.anchors),
            shows=tuple(traced.trace.shows),
            storages=traced.storages,
            warm_up=self._warm_up.result(),
            timed_steps=self._timing.done,
            without_checkpointing=not self._checkpointing.kept,
        )
        profile = profile_of(self._training, recording, source=source, link=link)
        if self._memory is None:
            return profile
        profile = with_workspaces(profile, self._memory.workspaces_bytes)
        return with_overhead(profile, self._memory.peaks_bytes)
