"""What a plan's device brings along: its lanes, its host pool, and how closely it is watched."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial

import torch

from planner.plan.copy_times import launch_us
from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from profiles.recording.device import device_name, is_at_hand
from profiles.schema.errors import PlanMismatchError
from profiles.schema.profile import CUDA
from runtime.host.host_pool import HostPool
from runtime.lanes.copy_device import copy_device
from runtime.lanes.emulated import EmulatedLane
from runtime.lanes.lane import CopyLane, TimedLane
from runtime.lanes.streams import DeviceStreams, StreamDevice, StreamLane
from runtime.replay.timeline import StepTimes

LOG = logging.getLogger("swapplan")

NOTICE = (
    "Replay on CUDA has been written and tested without a GPU, and has not been run on one yet. "
    "'make gpu-check' checks it on yours: kernels, stream order, bit-equal training, and the "
    "budget. Logged once."
)
"""It goes when results of a GPU are committed: `tests/runtime/replay/test_backend.py` fails as soon
as `results/gpu` holds some."""


class Watch(Enum):
    """Which steps have their memory counted (see `Replay.step`); ops are looked at in all."""

    EVERY_STEP = "every step"
    """On the emulated device: nothing else enforces the budget."""
    UNTIL_REPLAYED = "until a step was replayed"
    """On accelerators: the device counts by itself, and counting costs microseconds an op."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The parts of a replay that depend on the device.

    Attributes:
        d2h: The lane to the host.
        h2d: The lane back.
        pool: The host pool.
        watch: Which steps are watched.
        budget_bytes: What the accountant enforces; None where the device itself does.
        allocated_peak_bytes: Returns the most bytes that the device's allocator had handed out
            since its figures were last reset; None where there is no such allocator.
        streams: The device's streams; None where the lanes are none.
    """

    d2h: CopyLane
    h2d: CopyLane
    pool: HostPool
    watch: Watch
    budget_bytes: int | None
    allocated_peak_bytes: Callable[[], int | None] = lambda: None
    streams: StreamDevice | None = None


def backend_for(
    plan: Plan,
    device: torch.device,
    times: StepTimes | None = None,
    pool: HostPool | None = None,
) -> Backend:
    """Makes the backend of a plan's device.

    `times` keep when each copy ran, if anything does. `pool` is the host pool, if there is one.

    Raises:
        PlanMismatchError: There is none for it, or the device is not at hand.
        SwapplanError: The host pool cannot be had, or the plan's kernels cannot be compiled.
    """
    match plan.device.kind:
        case "cpu":
            backend = _emulated(plan, device, pool)
        case kind if is_at_hand(kind):
            if kind == CUDA:
                _warn_untried()
            backend = _streaming(plan, device, times, pool)
        case kind:
            raise PlanMismatchError(
                f"The plan is for device {kind!r}, which this machine does not have. Replay it "
                "where it has, or record the step on 'cpu'."
            )
    if times is None:
        return backend
    d2h = TimedLane(backend.d2h, Direction.D2H, times.on_copy)
    return replace(backend, d2h=d2h, h2d=TimedLane(backend.h2d, Direction.H2D, times.on_copy))


def _emulated(plan: Plan, device: torch.device, pool: HostPool | None) -> Backend:
    link = plan.link
    rates = {Direction.D2H: link.d2h_bytes_per_us, Direction.H2D: link.h2d_bytes_per_us}
    carriers = copy_device(device).carriers() if plan.engines else {}

    def lane(direction: Direction) -> EmulatedLane:
        launch_time = partial(launch_us, link, direction)
        carrier = carriers.get(direction)
        return EmulatedLane(direction, rates[direction], link.latency_us, launch_time, carrier)

    return Backend(
        d2h=lane(Direction.D2H),
        h2d=lane(Direction.H2D),
        pool=pool or HostPool(plan.host_pool_bytes),
        watch=Watch.EVERY_STEP,
        budget_bytes=plan.budget_bytes,
    )


@cache
def _warn_untried() -> None:
    """Logs the notice the first time in a process."""
    LOG.warning("%s", NOTICE)


def _streaming(
    plan: Plan, device: torch.device, times: StepTimes | None, pool: HostPool | None
) -> Backend:
    at_hand = device_name(device)
    if at_hand != plan.device.name:
        LOG.warning(
            "The plan's times are those of %s, this is %s: the budget holds, the stall may be "
            "another. Record the step here for a plan of its own.",
            plan.device.name,
            at_hand,
        )
    copies_on = copy_device(device)
    carriers = copies_on.carriers() if plan.engines else {}
    streams = DeviceStreams(device, carriers.get(Direction.D2H))
    clock = None if times is None else times.clock
    return Backend(
        d2h=StreamLane(streams, Direction.D2H, clock),
        h2d=StreamLane(streams, Direction.H2D, clock),
        pool=pool or copies_on.host_pool(plan.host_pool_bytes),
        watch=Watch.UNTIL_REPLAYED,
        budget_bytes=None,
        allocated_peak_bytes=lambda: torch.accelerator.max_memory_allocated(device),
        streams=streams,
    )
