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

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from profiles.estimating.attention_kernel import CudaAttention
from profiles.estimating.build_without_memory import build_hollow
from profiles.estimating.fake_tensors import (
    Entrance,
    Twins,
    ViewWrites,
    foreach_allowed,
    not_taken_for_tracing,
    turn_fake,
)
from profiles.estimating.known_values import KnownValues, looks_answered
from profiles.estimating.op_cost import cost_of
from profiles.estimating.pretend_cuda import cuda_pretended
from profiles.estimating.roofline import Roofline, Target
from profiles.hardware.links import known_sharing
from profiles.hooks.addresses import Listening
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.dispatch import storages_of, tensors_in
from profiles.hooks.named_storages import describe_model, owned_storages, storages_by_module
from profiles.hooks.reached import reached_tensors
from profiles.hooks.workload import Workload
from profiles.recording.record import MOST_TRACED_STEPS
from profiles.recording.recorded_profile import check_trains
from profiles.recording.trace import StepTrace
from profiles.schema.checks import verified
from profiles.schema.errors import WorkloadError
from profiles.schema.files import CREATED_BY, VERSION
from profiles.schema.profile import (
    CUDA,
    Link,
    Profile,
    Provenance,
    Slot,
    SlotTimes,
    Storage,
    Versions,
    WorkloadSource,
)
from profiles.schema.progress import Progress, silent


@contextmanager
def seen_in_backward(*modes: TorchFunctionMode) -> Iterator[None]:
    """Has modes see what backward calls, as long as this context is open.

    [Note: function modes in backward] torch hands `backward` to a mode as it does any function,
    and takes the mode away while the mode handles it. So what a checkpoint computes again in there
    would not be seen, and would take another course than it took in forward.
    """
    namespace: Any = torch.autograd
    run = namespace._engine_run_backward

    def run_with_modes(*args: Any, **kwargs: Any) -> Any:
        on = _get_current_function_mode_stack()
        with ExitStack() as around:
            for mode in modes:
                if mode not in on:
                    around.enter_context(mode)
            return run(*args, **kwargs)

    namespace._engine_run_backward = run_with_modes
    try:
        yield
    finally:
        namespace._engine_run_backward = run


CPU = torch.device("cpu")


class EstimateTrace(StepTrace):
    """Records one fake step while active."""

    def __init__(
        self, device: torch.device, roofline: Roofline, twins: Twins, view_writes: ViewWrites
    ) -> None:
        super().__init__(device)
        self._roofline = roofline
        self._twins = twins
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
        super().on_anchor(key, None if shown is None else self._twins.of(shown, CPU))

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        result = func(*args, **kwargs)
        return result, self._roofline.duration_us(cost_of(func, args, kwargs, result))

    def _is_resizable(self, storage: torch.UntypedStorage) -> bool:
        return storage._cdata not in self._twins.fixed


def _shares_storage(view: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    return view is not None and view.untyped_storage()._cdata == tensor.untyped_storage()._cdata


WARMUP_STEPS = 1
"""One step makes the optimizer's states; without a clock there is nothing to settle."""


def estimate(
    build: Callable[[], Workload],
    *,
    target: Target,
    source: WorkloadSource,
    link: Link,
    progress: Progress | None = None,
) -> Profile:
    """Returns the profile that a training step would have on a device that need not be there.

    Args:
        build: Builds the workload. It is built on the CPU, without memory for large tensors.
        target: What to estimate for.
        source: How to build it again; stored in the profile.
        link: The link stored in the profile.
        progress: Told of every step.

    Raises:
        WorkloadError: The step depends on values, which an estimate does not have, or it never
            calls the optimizer.
    """
    tell = progress or silent
    device = torch.device("cuda", 0) if target.device.kind == CUDA else torch.device("cpu")
    tell("building without memory", 0, 1)
    workload, tensors = build_hollow(build, device)
    workload = workload.held()
    fake = _FakeStep(workload, tensors, device)
    del tensors
    tell("tracing", 0, 1)
    trace = EstimateTrace(device, target.roofline, fake.twins, fake.view_writes)
    storages = _trace(workload, fake, trace)
    tell("tracing", 1, 1)
    return _profile(workload, target, source, link, trace, storages)


class _FakeStep:
    """Runs a workload's step with fake tensors."""

    def __init__(
        self, workload: Workload, tensors: Iterable[torch.Tensor], device: torch.device
    ) -> None:
        self._workload = workload
        self._on_cuda = device.type == "cuda"
        self._mode = FakeTensorMode()
        self._values = KnownValues()
        self.view_writes = ViewWrites(self._mode)
        self.twins = Twins(self._mode, device, self._values.learn)
        with self._surroundings():
            turn_fake(workload, tensors, self.twins)

    def run(self, watching: AbstractContextManager[object]) -> torch.Tensor:
        """Runs one step and returns its loss.

        Args:
            watching: A mode that sees each op between the entrance, where real tensors become
                fake, and the fake mode, which runs it.
        """
        with ExitStack() as around:
            around.enter_context(self._surroundings())
            modes = [*([CudaAttention()] if self._on_cuda else []), self.view_writes]
            for function_mode in modes:
                around.enter_context(function_mode)
            around.enter_context(seen_in_backward(*modes))
            around.enter_context(looks_answered(self._values))
            for mode in (self._mode, self._values, watching, Entrance(self.twins)):
                around.enter_context(mode)
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

    def reached(self) -> Iterator[torch.UntypedStorage]:
        """Returns the storages that the step can reach; those that could not be turned fake, not.

        See `profiles.hooks.reached`.
        """
        tensors = reached_tensors(self._workload)
        fake = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        return storages_of(fake, self.twins.device)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        device = cuda_pretended() if self._on_cuda else nullcontext()
        with not_taken_for_tracing(), foreach_allowed(), device:
            yield


def _trace(workload: Workload, fake: _FakeStep, trace: EstimateTrace) -> tuple[Storage, ...]:
    """Traces steps as `record` does, the first of which makes the optimizer's states."""
    for done in range(WARMUP_STEPS + MOST_TRACED_STEPS):
        trace.begin_step(
            owned_storages(workload.model, workload.optimizer),
            fake.reached(),
            storages_by_module(workload.model),
        )
        found_bytes = trace.live_bytes
        hooks = AnchorHooks(workload.model, workload.optimizer, trace)
        try:
            with hooks.step(), Listening(trace.on_address):
                fake.run(trace)
        finally:
            hooks.close()
        if done >= WARMUP_STEPS and trace.live_bytes == found_bytes:
            break
    check_trains(trace.anchors)
    return trace.storages(owned_storages(workload.model, workload.optimizer))


def _profile(
    workload: Workload,
    target: Target,
    source: WorkloadSource,
    link: Link,
    trace: EstimateTrace,
    storages: tuple[Storage, ...],
) -> Profile:
    durations_us = [0.0] * len(trace.anchors)
    for op in trace.ops:
        durations_us[op.slot] += op.duration_us
    model = describe_model(workload.model, workload.optimizer)
    profile = Profile(
        format=Profile.FORMAT,
        version=Profile.VERSION,
        created_by=CREATED_BY,
        workload=source,
        model_fingerprint=model.fingerprint(),
        device=target.device,
        link=link,
        sharing=known_sharing(link),
        versions=Versions(
            swapplan=VERSION, torch=torch.__version__, python=platform.python_version()
        ),
        times=Provenance.ESTIMATED,
        slot_times=SlotTimes.SUM_OF_OPS,
        warmup_steps=WARMUP_STEPS,
        settled=True,
        timed_steps=0,
        ops=tuple(trace.ops),
        slots=tuple(
            Slot(anchor=key, shows=shows, duration_us=duration_us, overhead_bytes=0)
            for key, shows, duration_us in zip(
                trace.anchors, trace.shows, durations_us, strict=True
            )
        ),
        storages=storages,
        model=model,
    )
    return verified(profile)
