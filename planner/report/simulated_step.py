"""A plan's simulated step, of which the tables, the page and the trace are made."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from planner.plan.device_memory import planned_bytes, unplanned_bytes
from planner.plan.host_memory import host_bytes
from planner.plan.plan import Plan, PlannedStorage, Rebuild, Swap
from planner.plan.simulate import Copy, Timeline, simulate_plan


@dataclass(frozen=True, kw_only=True)
class SimulatedSwap:
    """One swap, simulated. Times count from the begin of the step in which a copy is issued.

    Attributes:
        out: The copy to the host; None if the swap is clean.
        back: The copy back.
        out_slack_us: How long before compute asks for it the copy to the host is over; below zero,
            compute waits. None if the swap is clean.
        in_slack_us: The same of the copy back.
        back_in_next_step: Whether the copy back is issued in the step after the swap-out.
    """

    swap: Swap
    storage: PlannedStorage
    out: Copy | None
    back: Copy
    out_slack_us: float | None
    in_slack_us: float
    back_in_next_step: bool


@dataclass(frozen=True, kw_only=True)
class SimulatedRebuild:
    """Ops that are run again before a slot's own ops, and the storages that they fill. Times count
    from the begin of the step."""

    rebuild: Rebuild
    storages: tuple[PlannedStorage, ...]
    start_us: float
    end_us: float


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """One step under a plan: its swaps and rebuilds in their order, and the most bytes in each
    slot, on the device with the plan and without it, and in the host pool."""

    plan: Plan
    timeline: Timeline
    swaps: tuple[SimulatedSwap, ...]
    rebuilds: tuple[SimulatedRebuild, ...]
    with_bytes: tuple[int, ...]
    without_bytes: tuple[int, ...]
    host_bytes: tuple[int, ...]


def simulated_step(plan: Plan) -> SimulatedStep:
    """Simulates a plan's step."""
    timeline = simulate_plan(plan)
    return SimulatedStep(
        plan=plan,
        timeline=timeline,
        swaps=tuple(_simulated_swaps(plan, timeline)),
        rebuilds=tuple(simulated_rebuilds(plan, timeline)),
        with_bytes=planned_bytes(plan),
        without_bytes=unplanned_bytes(plan),
        host_bytes=host_bytes(plan),
    )


def anchors_of(plan: Plan, swap: Swap) -> dict[str, str]:
    """Returns a swap's anchors: `swap_out`, `release`, `swap_in` and `await`."""
    return {
        "swap_out": plan.slots[swap.swap_out_slot].anchor,
        "release": plan.slots[swap.release_slot].anchor,
        "swap_in": plan.slots[swap.swap_in_slot].anchor,
        "await": plan.slots[swap.await_slot].anchor,
    }


def simulated_rebuilds(plan: Plan, timeline: Timeline) -> Iterator[SimulatedRebuild]:
    """Yields when ops are run again: one rebuild after the other, then the slot's own ops."""
    begins_us: dict[int, float] = {}
    for rebuild in plan.rebuilds:
        start_us = begins_us.get(rebuild.slot, timeline.start_us[rebuild.slot])
        end_us = begins_us[rebuild.slot] = start_us + rebuild.recompute_us
        storages = tuple(plan.storage(drop.storage) for drop in rebuild.drops)
        yield SimulatedRebuild(rebuild=rebuild, storages=storages, start_us=start_us, end_us=end_us)


def _simulated_swaps(plan: Plan, timeline: Timeline) -> Iterator[SimulatedSwap]:
    outs = _by_swap(
        timeline.d2h, {swap: swap.swap_out_slot for swap in plan.swaps if not swap.clean}
    )
    backs = _by_swap(timeline.h2d, {swap: swap.swap_in_slot for swap in plan.swaps})
    for swap in plan.swaps:
        out, back = outs.get(swap), backs[swap]
        released_us = _asked_us(timeline, swap.release_slot, since_slot=swap.swap_out_slot)
        awaited_us = _asked_us(timeline, swap.await_slot, since_slot=swap.swap_in_slot)
        yield SimulatedSwap(
            swap=swap,
            storage=plan.storage(swap.storage),
            out=out,
            back=back,
            out_slack_us=None if out is None else released_us - out.end_us,
            in_slack_us=awaited_us - back.end_us,
            back_in_next_step=swap.swap_in_slot < swap.swap_out_slot,
        )


def _by_swap(copies: Iterable[Copy], issue_slots: dict[Swap, int]) -> dict[Swap, Copy]:
    """The copy of each swap: a lane carries a storage's copies in the order of their issue."""
    issued: dict[int, list[Copy]] = defaultdict(list)
    for copy in copies:
        issued[copy.storage].append(copy)
    in_order = sorted(issue_slots, key=issue_slots.__getitem__)
    return {swap: issued[swap.storage].pop(0) for swap in in_order}


def _asked_us(timeline: Timeline, slot: int, *, since_slot: int) -> float:
    """When compute reaches a slot's anchor, before it waits there, counted from the step of an
    earlier slot; every step takes the same time."""
    steps_us = timeline.step_us if slot < since_slot else 0.0
    return steps_us + timeline.start_us[slot] - timeline.stall_us[slot]
