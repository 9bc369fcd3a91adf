"""Waits, events and orders of the runtime, each taken out by a mutation that must be noticed."""

import gc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch

from planner.plan.lanes import Direction
from profiles.hooks.mode_stack import call_modes, leave_calls, leave_ops, op_modes
from runtime.host.host_pool import HostPool
from runtime.lanes import copy_device
from runtime.lanes.streams import DeviceStreams, StreamCopy, StreamLane
from runtime.recompute.generators import LentGenerators
from runtime.replay.executor import SwapExecutor
from runtime.storage.residency import Residency, TrackedStorage
from tests.device.scenarios import faults

Patch = pytest.MonkeyPatch
TakeOut = Callable[[Patch], None]


def _lane_goes_ahead(direction: Direction) -> TakeOut:
    """The copies of a lane do not wait for what compute was given before them."""

    def send(lane: StreamLane, launch: Any) -> None:
        if lane._direction is not direction:
            real(lane, launch)
            return
        lane._copy(launch)
        launch.ended = lane._device.record(lane._stream)

    real = StreamLane._send
    return lambda patch: patch.setattr(StreamLane, "_send", send)


def _compute_goes_ahead(direction: Direction) -> TakeOut:
    """Compute does not wait for the copies of a lane."""

    def wait(lane: StreamLane, launch: Any, copy: StreamCopy) -> None:
        if lane._direction is not direction:
            real(lane, launch, copy)

    real = StreamLane.let_compute_wait
    return lambda patch: patch.setattr(StreamLane, "let_compute_wait", wait)


def _the_event_comes_before_the_copy(patch: Patch) -> None:
    def send(lane: StreamLane, launch: Any) -> None:
        for stream in lane._device.compute_streams():
            lane._device.wait(lane._stream, lane._device.record(stream))
        launch.ended = lane._device.record(lane._stream)
        lane._copy(launch)

    patch.setattr(StreamLane, "_send", send)


def _events_are_used_again_at_once(patch: Patch) -> None:
    """A launch's event is recorded for something else before compute has waited for it."""
    real = StreamLane._send

    def send(lane: StreamLane, launch: Any) -> None:
        real(lane, launch)
        lane._device.recycle(launch.ended)

    patch.setattr(StreamLane, "_send", send)


def _only_the_default_stream_counts(patch: Patch) -> None:
    patch.setattr(DeviceStreams, "see_stream", lambda streams: None)


def _only_the_current_stream_counts(patch: Patch) -> None:
    def current(streams: DeviceStreams) -> Sequence[torch.Stream]:
        return (torch.accelerator.current_stream(streams._device),)

    patch.setattr(DeviceStreams, "compute_streams", current)


def _no_wait_for_what_is(residency: Residency) -> TakeOut:
    """A storage in that state is taken for one whose copy has ended."""

    def wait(tracked: TrackedStorage) -> Any:
        if tracked.residency is residency:
            return 0.0, tracked._state.copy
        return real(tracked)

    real = TrackedStorage._wait
    return lambda patch: patch.setattr(TrackedStorage, "_wait", wait)


def _a_copy_holds_no_storage(patch: Patch) -> None:
    """A graph that dies takes its storage along under the copy."""
    real = StreamCopy.__init__

    def made(copy: StreamCopy, lane: StreamLane, launch: Any, piece: Any) -> None:
        real(copy, lane, launch, piece)
        copy._held = piece._replace(storage=None)

    patch.setattr(StreamCopy, "__init__", made)


def _lanes_end_without_a_wait(patch: Patch) -> None:
    """The host pool goes while copies from it are still to be made."""
    patch.setattr(StreamLane, "finish", lambda lane: lane.flush())


def _host_memory_is_not_pinned(patch: Patch) -> None:
    patch.setattr(copy_device, "AllocatedHostPool", HostPool)


def _what_returns_is_not_waited_for_at_the_end(patch: Patch) -> None:
    """`restore` takes what is on its way for resident."""
    real = TrackedStorage.restore

    def restore(tracked: TrackedStorage, lane: Any) -> None:
        copy: Any = tracked._state.copy
        if copy is not None and tracked.residency is Residency.RETURNING:
            copy._held = None
        real(tracked, lane)

    patch.setattr(TrackedStorage, "restore", restore)


def _what_returns_is_handed_over_as_resident(patch: Patch) -> None:
    """What swaps on line hears of storages that are still on their way back."""
    real = SwapExecutor.hand_over

    def hand_over(executor: SwapExecutor, to_swap: Any) -> None:
        to_swap.begin_step(executor.index.owned())
        to_swap.evict_all_but(set())
        real(executor, to_swap)

    patch.setattr(SwapExecutor, "hand_over", hand_over)


def _random_ops_draw_anew(patch: Patch) -> None:
    """An op that is run again draws other numbers."""
    patch.setattr(LentGenerators, "set", lambda lent, draw: None)


def _generators_stay_as_lent(patch: Patch) -> None:
    """What follows a rebuild draws what was drawn before."""
    patch.setattr(LentGenerators, "put_back", lambda lent: None)


class Mutation(NamedTuple):
    """Something taken out of the runtime.

    Attributes:
        take_out: Does it, until the patch is undone.
        seen_in: The scenario in which it must be noticed.
    """

    take_out: TakeOut
    seen_in: str


TO_HOST, BACK = Direction.D2H, Direction.H2D
MUTATIONS: dict[str, Mutation] = {
    "copies to the host do not wait for compute": Mutation(
        _lane_goes_ahead(TO_HOST), "round the boundary"
    ),
    "copies back do not wait for compute": Mutation(_lane_goes_ahead(BACK), "each step"),
    "compute does not wait for copies to the host": Mutation(
        _compute_goes_ahead(TO_HOST), "overlapping"
    ),
    "compute does not wait for copies back": Mutation(_compute_goes_ahead(BACK), "overlapping"),
    "the event comes before the copy": Mutation(_the_event_comes_before_the_copy, "each step"),
    "events are used again at once": Mutation(
        _events_are_used_again_at_once, "leaving at the boundary"
    ),
    "only the default stream counts": Mutation(
        _only_the_default_stream_counts, "a stream of its own"
    ),
    "only the current stream counts": Mutation(
        _only_the_current_stream_counts, "a stream of its own"
    ),
    "bytes go before they have left": Mutation(
        _no_wait_for_what_is(Residency.LEAVING), "overlapping"
    ),
    "bytes are used before they have arrived": Mutation(
        _no_wait_for_what_is(Residency.RETURNING), "overlapping"
    ),
    "a copy holds no storage": Mutation(_a_copy_holds_no_storage, "a branch that dies"),
    "lanes end without a wait": Mutation(_lanes_end_without_a_wait, "round the boundary"),
    "host memory is not pinned": Mutation(_host_memory_is_not_pinned, "each step"),
    "what returns is not waited for at the end": Mutation(
        _what_returns_is_not_waited_for_at_the_end, "in turns with steps swapped on line"
    ),
    "what returns is handed over as resident": Mutation(
        _what_returns_is_handed_over_as_resident, "in turns with steps swapped on line"
    ),
    "random ops draw anew": Mutation(_random_ops_draw_anew, "rebuilt"),
    "generators stay as lent": Mutation(_generators_stay_as_lent, "rebuilt"),
}


def noticed_faults(mutation: Mutation, seed: int) -> list[str]:
    """Takes something out, and returns what its scenario then finds wrong."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.take_out(patch)
        try:
            # What was broken before may still hold memory.
            return faults(mutation.seen_in, seed, limited=False)
        except Exception as error:
            return [f"it raised {type(error).__name__}: {error}"]
        finally:
            _tidy()


def _tidy() -> None:
    """What has been broken may leave anything behind."""
    for mode in op_modes():
        leave_ops(mode)
    for call_mode in call_modes():
        leave_calls(call_mode)
    gc.collect()
