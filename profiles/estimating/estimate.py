"""Estimates one training step: traced with fake tensors, timed by a roofline.

No device and no memory is needed: no tensor of the step has numbers. The trace and the anchors are
those of recording, so the storages, their bytes and their lifetimes are what they would be on the
device; only times are estimated.

[Note: what a fake CPU gets wrong] Recordings on the `cpu` device differ from estimates for it in
three places, all that comparing every built-in workload and some dozen other steps has found:

- `mse_loss` puts every element's loss into the storage of its result before it adds them up there,
  and leaves the storage as large as that. A fake result is one number.
- `native_batch_norm` of bfloat16 with float32 weights, as under autocast, keeps mean and deviation
  of a batch in float32. Fake ones have the type of the input, half the bytes: a few per channel.
- Autograd makes the view of a gradient that it writes into by `as_strided`, of a fake gradient by
  the view that the step made: another op, which reads the same storage at the same point.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from profiles.estimating.build_without_memory import build_without_memory
from profiles.estimating.fake_tensors import (
    CPU,
    Entrance,
    FakeTensors,
    ViewWrites,
    foreach_allowed,
    not_taken_for_tracing,
    seen_in_backward,
    turn_fake,
)
from profiles.estimating.known_values import KnownValues, looks_answered
from profiles.estimating.pretend_cuda import CudaAttention, cuda_pretended
from profiles.estimating.roofline import Roofline, Target, cost_of
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.dispatch import tensors_in
from profiles.hooks.workload import Workload
from profiles.recording.passes import MOST_TRACED_STEPS, TracePass
from profiles.recording.recording import Recording, WarmUp, profile_of
from profiles.recording.trace import StepTrace
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import CUDA, Link, Profile, Provenance, WorkloadSource
from profiles.schema.progress import Progress, silent

WARMUP_STEPS = 1
"""One step makes the optimizer's states; without a clock there is nothing to settle."""


def estimate(
    build: Callable[[], Workload],
    *,
    target: Target,
    source: WorkloadSource,
    link: Link,
    progress: Progress | None = None,
    checkpointing: bool = True,
) -> Profile:
    """Returns the profile that a training step would have on a device that need not be there.

    Args:
        build: Builds the workload. It is built on the CPU, without memory for large tensors.
        target: What to estimate for.
        source: How to build it again; stored in the profile, as the link is.
        progress: Called at every stage.
        checkpointing: Whether activation checkpointing that the model has is kept.

    Raises:
        WorkloadError: The step depends on values, which an estimate does not have, or it never
            calls the optimizer; or checkpointing cannot be switched off.
    """
    around = Checkpointing(kept=checkpointing)
    progress = progress or silent
    device = torch.device(CUDA, 0) if target.device.kind == CUDA else CPU
    progress("building without memory", 0, 1)
    workload, tensors = build_without_memory(build, device)
    workload = workload.held()
    step = _FakeStep(workload, tensors, device)
    del tensors
    progress("tracing", 0, 1)
    trace = EstimateTrace(device, target.roofline, step.fakes, step.view_writes)
    traced = TracePass(workload, trace, most_steps=WARMUP_STEPS + MOST_TRACED_STEPS)
    hooks = AnchorHooks(workload.model, workload.optimizer)
    try:
        while not traced.is_over:
            with around, traced.around(hooks, lambda: workload.step):
                step.run(trace)
    finally:
        hooks.close()
    progress("tracing", 1, 1)
    recording = Recording(
        ops=tuple(trace.ops),
        anchors=tuple(trace.anchors),
        shows=tuple(trace.shows),
        storages=traced.storages,
        warm_up=WarmUp(WARMUP_STEPS, settled=True),
        timed_steps=0,
        without_checkpointing=not around.kept,
    )
    return profile_of(
        workload,
        recording,
        source=source,
        link=link,
        times=Provenance.ESTIMATED,
        device=target.device,
    )


class _FakeStep:
    """Runs a workload's step with fake tensors."""

    def __init__(
        self, workload: Workload, tensors: Iterable[torch.Tensor], device: torch.device
    ) -> None:
        self._workload = workload
        self._on_cuda = device.type == CUDA
        self._mode = FakeTensorMode()
        self._values = KnownValues()
        self.view_writes = ViewWrites(self._mode)
        self.fakes = FakeTensors(self._mode, device, self._values.learn)
        with self._surroundings():
            turn_fake(workload, tensors, self.fakes)

    def run(self, watching: AbstractContextManager[object]) -> torch.Tensor:
        """Runs one step and returns its loss.

        The mode that is watching sees each op between the entrance, where real tensors become
        fake, and the fake mode, which runs it.
        """
        with ExitStack() as around:
            around.enter_context(self._surroundings())
            function_modes = [*([CudaAttention()] if self._on_cuda else []), self.view_writes]
            contexts: list[AbstractContextManager[object]] = [
                *function_modes,
                seen_in_backward(*function_modes),
                looks_answered(self._values),
                *(self._mode, self._values, watching, Entrance(self.fakes)),
            ]
            for context in contexts:
                around.enter_context(context)
            try:
                return self._workload.step()
            except RuntimeError as error:
                # Since torch 2.13 it is a class of its own, with other words; 2.11 has words alone.
                if "two different devices" not in str(error) and "two devices" not in str(error):
                    raise
                raise WorkloadError(
                    f"The step mixes tensors of two devices ({' '.join(str(error).split())}). Make "
                    "its tensors where the model is, such as by device=inputs.device."
                ) from error

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        device = cuda_pretended() if self._on_cuda else nullcontext()
        with not_taken_for_tracing(), foreach_allowed(), device:
            yield


class EstimateTrace(StepTrace):
    """Records one fake step while active."""

    def __init__(
        self, device: torch.device, roofline: Roofline, fakes: FakeTensors, view_writes: ViewWrites
    ) -> None:
        super().__init__(device)
        self._roofline = roofline
        self._fakes = fakes
        self._view_writes = view_writes

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        writes = self._view_writes
        if writes.is_written and func.is_view and _shares_storage(writes.view, args[0]):
            return func(*args, **(kwargs or {}))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if writes.view is not None and func._schema.is_mutable:
            touched = tensors_in(func, args, kwargs or {})
            written = [tensor for tensor, is_written in touched if is_written]
            writes.is_written |= any(_shares_storage(writes.view, tensor) for tensor in written)
        return result

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Opens the next slot; autograd may have saved a real tensor, as the step handed it."""
        super().on_anchor(key, None if shown is None else self._fakes.of(shown, CPU))

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        result = func(*args, **kwargs)
        return result, self._roofline.duration_us(cost_of(func, args, kwargs, result))

    def _is_resizable(self, storage: torch.UntypedStorage) -> bool:
        return storage._cdata not in self._fakes.fixed

    def _reached(self, *roots: object) -> tuple[torch.Tensor, ...]:
        # Some could not be turned fake.
        reached = super()._reached(*roots)
        return tuple(tensor for tensor in reached if isinstance(tensor, FakeTensor))


def _shares_storage(view: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    return view is not None and view.untyped_storage()._cdata == tensor.untyped_storage()._cdata
