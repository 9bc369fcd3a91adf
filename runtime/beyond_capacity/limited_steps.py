"""Steps of a training that does not fit: run within a limit, and traced if that is wanted."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self

import torch

from planner.plan.lanes import Direction
from profiles.hooks.addresses import Listening, in_threads_of_this_step
from profiles.hooks.anchors import AnchorHooks, AnchorListener
from profiles.hooks.dispatch import OpMode, OpWatcher
from profiles.hooks.named_storages import Owned, owned_storages
from profiles.hooks.workload import Training
from profiles.recording.allocator_peaks import OpWorkspaces, held_bytes
from profiles.recording.clocks import OpTimes
from profiles.recording.device import Instruments, device_of
from profiles.recording.passes import Held
from profiles.recording.recording import check_trains
from profiles.recording.shapes_seen import ShapesSeen
from profiles.recording.trace import StepTrace
from profiles.schema.errors import CapacityError
from profiles.schema.profile import Op, Storage
from profiles.schema.units import size_text_down, size_text_up
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.beyond_capacity.second_try import SecondTry
from runtime.host.host_pool import HostFreeList
from runtime.lanes.copy_device import copy_device
from runtime.storage.accountant import Accountant


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
    """Steps of a training that run within a limit. Use it as a context manager.

    While it is open, part of what the model and the optimizer hold may be in host memory.

    Attributes:
        swap: What swaps on line.
    """

    def __init__(
        self,
        training: Training,
        limit_bytes: int | None,
        tools: Instruments,
        hooks: AnchorHooks | None = None,
    ) -> None:
        """Prepares lanes and host memory; there is no limit if it is None.

        `hooks` find the model's anchors, if something does already.
        """
        self._training = training
        self._tools = tools
        device = device_of(training.model)
        copies_on = copy_device(device)
        self._accountant = Accountant(device, limit_bytes)
        self._accountant.memory.count_owned(self._owned())
        self._lanes = tuple(map(copies_on.lane, Direction))
        d2h, h2d = self._lanes
        free_list = HostFreeList(copies_on.host_pool)
        self.swap = OnlineSwap(device, self._accountant, d2h=d2h, h2d=h2d, free_list=free_list)
        self._is_own = hooks is None
        self._hooks = hooks or AnchorHooks(training.model, training.optimizer)

    @property
    def peak_bytes(self) -> int:
        """Most device bytes in storages that the last step has shown."""
        return self._accountant.memory.peak_bytes

    @property
    def was_never_exceeded(self) -> bool:
        """Whether the device's allocator itself says so, of all there was since its last reset."""
        meter, limit_bytes = self._tools.memory, self._accountant.budget_bytes
        return meter is not None and limit_bytes is not None and meter.peak_bytes() <= limit_bytes

    def new_trace(self) -> StepTrace:
        """Returns a trace that knows the sizes of storages that are out, too."""
        return StepTrace(device_of(self._training.model), self.swap.size_of)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Keeps the step that is run inside within the limit.

        One that does not fit even so runs on beyond it, and `swap.fell_short` says that.
        """
        self._begin()
        with ExitStack() as watched:
            self._enter(watched, _SwapAlone(self.swap), ())
            yield

    @contextmanager
    def traced(self, trace: StepTrace, held: Held) -> Iterator[list[SeenStep]]:
        """Keeps the step that is run inside within the limit, and traces it into the list.

        [Note: who sees what] The mode entered last is asked first. Swapping comes before the
        trace, which sees every argument there and no copy; then the second try, which must see
        the accountant's refusals; and next to the op the clock, which times nothing else.

        Raises:
            CapacityError: An op does not fit even with everything else on the host.
            WorkloadError: The step never calls the optimizer.
        """
        trace.begin_step(self._training, held())
        shapes = ShapesSeen(_TraceThenSwap(trace, self.swap), self.swap.size_of)
        self._begin()
        meter = self._tools.memory
        device = device_of(self._training.model)
        held_all_the_time = 0 if meter is None else held_bytes(meter, device, self._owned())
        times = OpTimes(self._tools.clock)
        workspaces = [] if meter is None else [OpWorkspaces(meter)]
        seen: list[SeenStep] = []
        with ExitStack() as watched:
            watched.enter_context(Listening(in_threads_of_this_step(trace.on_address)))
            self._enter(watched, shapes, (times, *workspaces), trace)
            yield seen
        for taken in workspaces:
            self.swap.note_workspaces(taken.largest_bytes())
        self._check_need(trace)
        check_trains(trace.anchors)
        storages = trace.storages(self._training)
        seen.append(
            SeenStep(
                ops=tuple(trace.ops),
                anchors=tuple(trace.anchors),
                shows=tuple(trace.shows),
                shapes=shapes,
                storages=storages,
                durations_us=times.durations_us(),
                held_bytes=held_all_the_time,
                workspaces_bytes=workspaces[0].sizes_bytes() if workspaces else (),
            )
        )

    def bring_back(self) -> None:
        """Brings everything back; no limit holds until the next step begins.

        Raises:
            torch.OutOfMemoryError: The device has no room for all of it; call again.
        """
        self._accountant.lift()
        self.swap.close()

    def close(self) -> None:
        """Brings everything back and ends the lanes."""
        try:
            self.swap.close()
        except torch.OutOfMemoryError:
            warnings.warn(
                "The device has no room for all that the model and its optimizer hold between "
                "steps; part of it stays in host memory. Build them anew before using them.",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._is_own:
            self._hooks.close()
        for lane in self._lanes:
            lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        self.swap.begin_step(self._owned())
        self.swap.make_fit()

    def _enter(
        self,
        watched: ExitStack,
        listener: AnchorListener,
        watchers: tuple[OpWatcher, ...],
        *traces: OpMode,
    ) -> None:
        """Enters what watches a step, in order; see [Note: who sees what]."""
        watched.enter_context(self._hooks.step(listener))
        watched.enter_context(Listening(in_threads_of_this_step(self.swap.on_address)))
        for watcher in watchers:
            watched.enter_context(watcher)
        watched.enter_context(self._accountant)
        again = SecondTry(self.swap.evict_all_but, watchers, records=bool(traces))
        for mode in (again, *traces, self.swap):
            watched.enter_context(mode)

    def _owned(self) -> tuple[Owned, ...]:
        return owned_storages(self._training.model, self._training.optimizer)

    def _check_need(self, trace: StepTrace) -> None:
        if not self.swap.fell_short:
            return
        need = self.swap.largest_need
        module = trace.ops[need.op].module
        limit = size_text_down(self._accountant.budget_bytes or 0)
        raise CapacityError(
            f"{need.name}{f' in {module}' if module else ''} needs "
            f"{size_text_up(need.size_bytes)} on the device at once, the limit is {limit}. "
            "Give it at least that much (--limit, or the budget), or record a smaller step."
        )


class _SwapAlone(NamedTuple):
    """An anchor listener that calls what swaps."""

    swap: OnlineSwap

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """See `profiles.hooks.anchors`."""
        self.swap.at_anchor()


class _TraceThenSwap(NamedTuple):
    """An anchor listener that calls both the trace and what swaps."""

    trace: StepTrace
    swap: OnlineSwap

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """See `profiles.hooks.anchors`."""
        self.trace.on_anchor(key, shown)
        self.swap.at_anchor()


def all_there_is_bytes(training: Training) -> int:
    """Returns what this process has of the device, and what that has free.

    Raises:
        CapacityError: The device has no capacity of its own.
    """
    device = device_of(training.model)
    free_bytes = copy_device(device).free_bytes()
    return torch.accelerator.memory_allocated(device) + free_bytes
