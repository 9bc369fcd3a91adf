"""Records a step that does not fit: storages are swapped on line, each op is timed on its own.

Ops, storages, lifetimes and anchors are those of the resident step, as the program is the same and
the trace sees neither copies nor where bytes are. What cannot be had is the time from anchor to
anchor, which would be mostly copies: a slot takes as long as its ops together, without what Python
does between them. On a GPU each op is launched on an idle device, so short ops take their launch
too; and fresh memory is slower than memory that was used before, on a CPU above all.
"""

import warnings
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple, Self

import torch

from planner.plan.lanes import Direction
from profiles.hooks.addresses import Listening, in_threads_of_this_step
from profiles.hooks.anchors import reporting_anchors
from profiles.hooks.dispatch import OpWatcher
from profiles.hooks.named_storages import Owned, owned_storages
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import OpWorkspaces, held_bytes, with_op_overhead
from profiles.recording.clocks import OpTimes
from profiles.recording.device import Instruments, device_of, instruments_for
from profiles.recording.record import (
    Recording,
    check_same_course,
    check_trains,
    profile_of,
    warm_up,
)
from profiles.recording.shapes_seen import ShapesSeen, check_same_sizes
from profiles.recording.trace import StepTrace
from profiles.schema.errors import CapacityError
from profiles.schema.profile import Link, Op, Profile, Storage, WorkloadSource
from profiles.schema.progress import Progress, silent
from profiles.schema.units import size_text_down, size_text_up
from runtime.beyond_capacity.online_swap import OnlineSwap, SecondTry
from runtime.host.host_pool import HostFreeList
from runtime.lanes.copy_device import copy_device
from runtime.storage.accountant import Accountant


def record_beyond_capacity(
    workload: Workload,
    *,
    source: WorkloadSource,
    link: Link,
    limit_bytes: int | None,
    warmup_steps: int = 2,
    timed_steps: int = 3,
    progress: Progress | None = None,
    instruments: Instruments | None = None,
) -> Profile:
    """Runs a training step a few times within a limit and returns what one step does.

    Args:
        workload: The step to record. Between steps it must fit on the device no more than within
            one; what has to wait on the host does. All of it is brought back at the end.
        source: How to build it again; stored in the profile, as the link is.
        limit_bytes: Device bytes the step may use; None for what the device has free.
        warmup_steps: Steps before recording, at least; more are run until op times settle.
        timed_steps: Steps whose median gives each op's duration; at least one.
        instruments: What to measure with; those of the device if None.

    Raises:
        CapacityError: An op does not fit even with everything else on the host.
        WorkloadError: The step takes another course each time, or never calls the optimizer.
    """
    report = progress or silent
    tools = instruments or instruments_for(device_of(workload.model))
    with LimitedSteps(workload, limit_bytes, tools) as limited:
        warmed_up = warm_up(
            lambda: sum(limited.run().durations_us), least_steps=warmup_steps, progress=report
        )
        steps = _timed_steps(limited, timed_steps, report)
    seen = steps[-1]
    recording = Recording(
        ops=_with_medians(steps),
        anchors=seen.anchors,
        shows=seen.shows,
        storages=seen.storages,
        warm_up=warmed_up,
        timed_steps=timed_steps,
    )
    profile = profile_of(workload, recording, source=source, link=link)
    if tools.memory is None:
        return profile
    return with_op_overhead(
        profile,
        granule_bytes=tools.memory.granule_bytes,
        unsplit_bytes=tools.memory.unsplit_bytes,
        held_bytes=seen.held_bytes,
        workspaces_bytes=seen.workspaces_bytes,
    )


class SeenStep(NamedTuple):
    """One step as it was traced, and what was measured of each op in it."""

    ops: tuple[Op, ...]
    anchors: tuple[str, ...]
    shows: tuple[int | None, ...]
    shapes: ShapesSeen
    storages: tuple[Storage, ...]
    durations_us: tuple[float, ...]
    held_bytes: int
    """Allocated all the time, beyond storages; 0 where there is no allocator to ask."""
    workspaces_bytes: tuple[int, ...]
    """What each op took meanwhile; empty where there is no allocator to ask."""


class LimitedSteps:
    """A workload whose steps run within a limit. Use it as a context manager.

    While it is open, part of what the model and the optimizer hold may be in host memory.
    """

    def __init__(self, workload: Workload, limit_bytes: int | None, tools: Instruments) -> None:
        """Prepares lanes and host memory. Without a limit it is what the device has free.

        Raises:
            CapacityError: There is no limit, and the device has no capacity of its own.
        """
        self._workload = workload.held()
        self._tools = tools
        device = device_of(workload.model)
        copies_on = copy_device(device)
        self._accountant = Accountant(device, limit_bytes)
        memory = self._accountant.memory
        memory.count_owned(self._owned())
        if limit_bytes is None:
            self._accountant.budget_bytes = memory.live_bytes + copies_on.free_bytes()
        self._d2h, self._h2d = map(copies_on.lane, Direction)
        free_list = HostFreeList(copies_on.host_pool)
        self._swap = OnlineSwap(
            device, self._accountant, d2h=self._d2h, h2d=self._h2d, free_list=free_list
        )
        self._trace = StepTrace(device, self._swap.size_of)

    def run(self) -> SeenStep:
        """Runs a step.

        [Note: who sees what] The mode entered last is asked first. Swapping comes before the
        trace, which sees every argument there and no copy; then the second try, which must see
        the accountant's refusals; and next to the op the clock, which times nothing else.

        Raises:
            CapacityError: An op does not fit even with everything else on the host.
            WorkloadError: The step never calls the optimizer.
        """
        trace = self._trace
        trace.begin_step(self._workload)
        shapes = ShapesSeen(_TraceThenSwap(trace, self._swap), self._swap.size_of)
        self._swap.begin_step(self._owned())
        self._accountant.memory.count_owned(self._owned())
        meter = self._tools.memory
        held = 0 if meter is None else held_bytes(meter, self._owned())
        times = OpTimes(self._tools.clock)
        workspaces = [] if meter is None else [OpWorkspaces(meter)]
        watchers: list[OpWatcher] = [times, *workspaces]
        with ExitStack() as watched:
            watched.enter_context(reporting_anchors(self._workload, shapes))
            watched.enter_context(Listening(in_threads_of_this_step(self._swap.on_address)))
            watched.enter_context(Listening(in_threads_of_this_step(trace.on_address)))
            for watcher in watchers:
                watched.enter_context(watcher)
            watched.enter_context(self._accountant)
            for mode in (SecondTry(self._swap.evict_all_but, watchers), trace, self._swap):
                watched.enter_context(mode)
            self._workload.step()
        self._check_need(trace)
        check_trains(trace.anchors)
        storages = trace.storages(self._workload)
        return SeenStep(
            ops=tuple(trace.ops),
            anchors=tuple(trace.anchors),
            shows=tuple(trace.shows),
            shapes=shapes,
            storages=storages,
            durations_us=times.durations_us(),
            held_bytes=held,
            workspaces_bytes=workspaces[0].sizes_bytes() if workspaces else (),
        )

    def close(self) -> None:
        """Brings everything back and ends the lanes."""
        try:
            self._swap.close()
        except torch.OutOfMemoryError:
            warnings.warn(
                "The device has no room for all that the model and its optimizer hold between "
                "steps; part of it stays in host memory. Build them anew before using them.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._d2h.close()
        self._h2d.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _owned(self) -> tuple[Owned, ...]:
        return owned_storages(self._workload.model, self._workload.optimizer)

    def _check_need(self, trace: StepTrace) -> None:
        if not self._swap.fell_short:
            return
        need = self._swap.largest_need
        module = trace.ops[need.op].module
        limit = size_text_down(self._accountant.budget_bytes or 0)
        raise CapacityError(
            f"{need.name}{f' in {module}' if module else ''} needs "
            f"{size_text_up(need.size_bytes)} on the device at once, the limit is {limit}. "
            "Give --limit at least that much, or record a smaller step."
        )


class _TraceThenSwap(NamedTuple):
    """An anchor listener that calls both the trace and what swaps."""

    trace: StepTrace
    swap: OnlineSwap

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """See `profiles.hooks.anchors`."""
        self.trace.on_anchor(key, shown)
        self.swap.at_anchor()


def _timed_steps(limited: LimitedSteps, count: int, report: Progress) -> list[SeenStep]:
    """Runs steps, which must all take the same course."""
    steps: list[SeenStep] = []
    for done in range(count):
        report("recording op by op", done, count)
        steps.append(limited.run())
        one, other = steps[0], steps[-1]
        check_same_course(one.anchors, other.anchors, "anchor")
        check_same_sizes(one.shapes, other.shapes)
        check_same_course([op.name for op in one.ops], [op.name for op in other.ops], "op")
    report("recording op by op", count, count)
    return steps


def _with_medians(steps: list[SeenStep]) -> tuple[Op, ...]:
    """The ops of the last step, each with the median of its durations."""
    times_us = zip(*(step.durations_us for step in steps), strict=True)
    return tuple(
        op.model_copy(update={"duration_us": median(durations_us)})
        for op, durations_us in zip(steps[-1].ops, times_us, strict=True)
    )
