"""Runs the steps of a workload within a limit, watched and timed op by op."""

import warnings
from contextlib import ExitStack
from typing import NamedTuple, Self

import torch

from planner.plan.lanes import Direction
from profiles.hooks.addresses import Listening, in_threads_of_this_step
from profiles.hooks.anchors import reporting_anchors
from profiles.hooks.named_storages import Owned, owned_storages
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import held_bytes
from profiles.recording.device import Instruments, device_of
from profiles.recording.op_watchers import OpTimes, OpWatcher, OpWorkspaces
from profiles.recording.record import check_trains
from profiles.recording.shapes_seen import ShapesSeen
from profiles.recording.trace import StepTrace
from profiles.schema.errors import CapacityError
from profiles.schema.profile import Op, Storage
from profiles.schema.units import size_text_down, size_text_up
from runtime.beyond_capacity.online_swap import HostFreeList, OnlineSwap
from runtime.beyond_capacity.retry_after_oom import SecondTry
from runtime.lanes.copy_device import copy_device
from runtime.storage.accountant import Accountant


class SeenStep(NamedTuple):
    """One step as it was seen.

    Attributes:
        ops: Its ops, in order.
        anchors: Keys of its anchors, in order.
        shows: The storage each of them shows.
        shapes: What its anchors showed.
        storages: Its storages.
        durations_us: The time of each op.
        held_bytes: Allocated all the time, beyond storages; 0 where there is no allocator to ask.
        workspaces_bytes: What each op took meanwhile; empty where there is no allocator to ask.
    """

    ops: tuple[Op, ...]
    anchors: tuple[str, ...]
    shows: tuple[int | None, ...]
    shapes: ShapesSeen
    storages: tuple[Storage, ...]
    durations_us: tuple[float, ...]
    held_bytes: int
    workspaces_bytes: tuple[int, ...]

    @property
    def op_names(self) -> list[str]:
        """The ops, in order."""
        return [op.name for op in self.ops]


class LimitedSteps:
    """A workload whose steps run within a limit. Use it as a context manager.

    While it is open, part of what the model and the optimizer hold may be in host memory.
    """

    def __init__(self, workload: Workload, limit_bytes: int | None, tools: Instruments) -> None:
        """Prepares lanes and host memory.

        Args:
            workload: What to run.
            limit_bytes: Device bytes it may use; None for what the device has free.
            tools: What to measure with.

        Raises:
            CapacityError: There is no limit, and the device has no capacity of its own.
        """
        self._workload = workload.held()
        self._tools = tools
        self._device = device_of(workload.model)
        copies_on = copy_device(self._device)
        self._accountant = Accountant(self._device, limit_bytes)
        self._accountant.memory.count_owned(self._owned())
        if limit_bytes is None:
            self._accountant.budget_bytes = (
                self._accountant.memory.live_bytes + copies_on.free_bytes()
            )
        self._d2h, self._h2d = map(copies_on.lane, Direction)
        shelf = HostFreeList(copies_on.host_pool)
        self._swap = OnlineSwap(
            self._device, self._accountant, d2h=self._d2h, h2d=self._h2d, shelf=shelf
        )
        self._trace = StepTrace(self._device, self._swap.size_of)

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
            watched.enter_context(Listening(trace.on_address))
            for watcher in watchers:
                watched.enter_context(watcher)
            watched.enter_context(self._accountant.watch())
            for mode in (SecondTry(self._swap.evict_all_but, watchers), trace, self._swap):
                watched.enter_context(mode)
            self._workload.step()
        self._check_need(trace)
        check_trains(trace.anchors)
        storages = trace.storages(self._owned())
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
        _bring_back(self._swap)
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


class _TraceThenSwap:
    """An anchor listener that tells both the trace and what swaps."""

    def __init__(self, trace: StepTrace, swap: OnlineSwap) -> None:
        self._trace = trace
        self._swap = swap

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Tells both; see `profiles.hooks.anchors`."""
        self._trace.on_anchor(key, shown)
        self._swap.at_anchor()


def _bring_back(swap: OnlineSwap) -> None:
    try:
        swap.close()
    except torch.OutOfMemoryError:
        warnings.warn(
            "The device has no room for all that the model and its optimizer hold between steps; "
            "part of it stays in host memory. Build them anew before using them.",
            RuntimeWarning,
            stacklevel=2,
        )
