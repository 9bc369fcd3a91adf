"""How long each op's kernels run, from torch's profiler.

[Note: kernels of an op] A dispatch mode marks the range in which each op is issued. The profiler
ties every kernel, copy and fill on the device to the call that launched it, and that call lies
within the range of one op, on the same thread: an op's time is the time of all kernels launched in
its range, whenever they ran.

Seeing kernels takes CUPTI, which a driver may keep from ordinary users and containers. Then the
profiler sees the calls and no kernel at all, and no op has a time. There, and on accelerators whose
kernels torch's profiler does not show, ops are timed by events around them. What the host takes to
issue an op says nothing of what running it again takes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch._ops import OpOverload
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profiler

from profiles.hooks.dispatch import OpMode
from profiles.recording.clocks import Clock, OpTimes

MARK = "swapplan op "


class OpKernels(NamedTuple):
    """An op, and the time of its kernels: 0 if it launched none, None if its mark was lost."""

    name: str
    kernel_us: float | None


KernelTimer = Callable[[], AbstractContextManager[list[OpKernels]]]
"""Watches the step that is run inside; the list has its ops, in order, when that is left."""


ProfilerEvent = Any
"""An event of torch's profiler: its `kernels` are what it launched itself, each with a `duration`
in us, its `cpu_children` the ranges and calls within it."""


class OpMarks(OpMode):
    """Marks each op for torch's profiler with its number.

    Attributes:
        names: The ops, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op within its mark."""
        number = len(self.names)
        self.names.append(str(func))
        with record_function(f"{MARK}{number}"):
            return func(*args, **kwargs)


@contextmanager
def cuda_kernels(*, device: torch.device) -> Iterator[list[OpKernels]]:
    """Times the kernels of each op of the step that is run inside by torch's profiler."""
    activities = (ProfilerActivity.CPU, ProfilerActivity.CUDA)
    with profiled_kernels(activities, partial(torch.cuda.synchronize, device)) as found:
        yield found
    found[:] = or_unknown(tuple(found))


@contextmanager
def between_events(*, clock: Clock) -> Iterator[list[OpKernels]]:
    """Times each op of the step that is run inside; see [Note: ops between events] in `clocks`."""
    found: list[OpKernels] = []
    names, times = _Names(), OpTimes(clock)
    # What is entered first is asked last: nothing but the op runs between two stamps.
    with times, names:
        yield found
    each = zip(names.names, times.durations_us(), strict=True)
    found += [OpKernels(name, duration_us) for name, duration_us in each]


class _Names(OpMode):
    """Notes the name of each op."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        self.names.append(str(func))
        return result


def or_unknown(ops: tuple[OpKernels, ...]) -> tuple[OpKernels, ...]:
    """Returns the ops as they are, or without times if the profiler saw no kernel of any."""
    if any(op.kernel_us for op in ops):
        return ops
    warnings.warn(
        "The profiler saw no kernel on the GPU, so ops are timed by events around them, which for "
        "short ones holds what the host takes, too; the times of slots are not affected. A driver "
        "may keep CUPTI for administrators (NVreg_RestrictProfilingToAdminUsers).",
        RuntimeWarning,
        stacklevel=2,
    )
    return tuple(OpKernels(op.name, None) for op in ops)


@contextmanager
def profiled_kernels(
    activities: Iterable[ProfilerActivity], synchronize: Callable[[], None]
) -> Iterator[list[OpKernels]]:
    """Watches a step by a profiler of some activities, which ends with `synchronize`."""
    marks, found = OpMarks(), list[OpKernels]()
    with torch_profiler(activities=activities, acc_events=True) as profiler:
        with marks:
            yield found
        synchronize()
    found.extend(attributed(marks.names, profiler.events() or ()))


def attributed(names: list[str], events: Iterable[ProfilerEvent]) -> tuple[OpKernels, ...]:
    """Returns each op with the time of its kernels, from what the profiler saw.

    It shows the marks twice, as they are on the host and, if there is a device, as the stretch from
    first to last kernel there; the first counts.
    """
    times_us = {
        int(event.name.removeprefix(MARK)): _kernels_us(event)
        for event in events
        if event.name.startswith(MARK) and event.device_type == DeviceType.CPU
    }
    return tuple(OpKernels(name, times_us.get(number)) for number, name in enumerate(names))


def _kernels_us(event: ProfilerEvent) -> float:
    # The stretch that a range covers on the device, from its first kernel to its last, may be
    # listed among its kernels under its own name: that of a mark, and of any range within an op.
    own_us = sum(kernel.duration for kernel in event.kernels if kernel.name != event.name)
    return own_us + sum(_kernels_us(child) for child in event.cpu_children)
