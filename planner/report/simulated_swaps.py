"""Trips: each swap of a plan with the copies that carry it in the simulated step."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.plan.simulate import Copy, Timeline

if TYPE_CHECKING:
    from planner.plan.plan import Plan, PlannedStorage, Swap

from typing import TYPE_CHECKING

import pandas as pd

from planner.plan.simulate import simulate_plan

if TYPE_CHECKING:
    from planner.plan.plan import Plan


@dataclass(frozen=True, kw_only=True)
class SimulatedSwap:
    """One swap, simulated. Times count from the begin of the step in which a copy is issued.

    Attributes:
        swap: Its anchors.
        storage: What moves.
        out: The copy to the host; None if the swap is clean.
        back: The copy back.
        out_slack_us: How long before compute asks for it the copy to the host is over; below zero,
            compute waits. None if the swap is clean.
        in_slack_us: The same of the copy back.
        back_in_next_step: Whether the copy back is issued in the step after the swap-out.
    """

    swap: "Swap"
    storage: "PlannedStorage"
    out: Copy | None
    back: Copy
    out_slack_us: float | None
    in_slack_us: float
    back_in_next_step: bool


def trips(plan: "Plan", timeline: Timeline) -> tuple[SimulatedSwap, ...]:
    """Returns a plan's swaps, in their order, with their copies.

    Args:
        plan: The plan.
        timeline: Its simulated step.
    """
    storages = {storage.id: storage for storage in plan.storages}
    # Both lanes carry one storage's copies in the order in which its trips issue them.
    copying = [swap for swap in plan.swaps if not swap.clean]
    outs = _by_storage(timeline.d2h, copying, [swap.swap_out_slot for swap in copying])
    backs = _by_storage(timeline.h2d, plan.swaps, [swap.swap_in_slot for swap in plan.swaps])
    return tuple(
        _trip(timeline, swap, storages[swap.storage], outs.get(swap), backs[swap])
        for swap in plan.swaps
    )


def _by_storage(
    copies: Iterable[Copy], swaps: Sequence["Swap"], issue_slots: Sequence[int]
) -> dict["Swap", Copy]:
    issued: dict[int, list[Copy]] = defaultdict(list)
    for copy in copies:
        issued[copy.storage].append(copy)
    found: dict[Swap, Copy] = {}
    for _, position in sorted((slot, position) for position, slot in enumerate(issue_slots)):
        swap = swaps[position]
        found[swap] = issued[swap.storage].pop(0)
    return found


def _trip(
    timeline: Timeline, swap: "Swap", storage: "PlannedStorage", out: Copy | None, back: Copy
) -> SimulatedSwap:
    out_slack_us = None
    if out is not None:
        asked_us = _asked_us(timeline, swap.release_slot, since_slot=swap.swap_out_slot)
        out_slack_us = asked_us - out.end_us
    asked_us = _asked_us(timeline, swap.await_slot, since_slot=swap.swap_in_slot)
    return SimulatedSwap(
        swap=swap,
        storage=storage,
        out=out,
        back=back,
        out_slack_us=out_slack_us,
        in_slack_us=asked_us - back.end_us,
        back_in_next_step=swap.swap_in_slot < swap.swap_out_slot,
    )


def _asked_us(timeline: Timeline, slot: int, *, since_slot: int) -> float:
    """When compute reaches a slot's anchor, before it waits there, counted from the step of an
    earlier slot; every step takes the same time."""
    steps_us = timeline.step_us if slot < since_slot else 0.0
    return steps_us + timeline.start_us[slot] - timeline.stall_us[slot]


def waits_table(plan: "Plan") -> pd.DataFrame:
    """Returns one row per slot whose anchor makes compute wait, in order.

    Columns: `slot` (index), `anchor`, `stall_us` (simulated), `waits_for`: the names of the
    storages whose copies are late there, those to the host as `out NAME`, those back as `in NAME`.
    """
    timeline = simulate_plan(plan)
    late = _late_copies(trips(plan, timeline))
    rows = [
        {
            "slot": t,
            "anchor": plan.slots[t].anchor,
            "stall_us": stall_us,
            "waits_for": tuple(late[t]),
        }
        for t, stall_us in enumerate(timeline.stall_us)
        if stall_us > 0
    ]
    columns = ["slot", "anchor", "stall_us", "waits_for"]
    return pd.DataFrame(rows, columns=columns).set_index("slot")


def _late_copies(moved: tuple[SimulatedSwap, ...]) -> dict[int, list[str]]:
    late: dict[int, list[str]] = defaultdict(list)
    for trip in moved:
        if trip.out_slack_us is not None and trip.out_slack_us < 0:
            late[trip.swap.release_slot].append(f"out {trip.storage.name}")
        if trip.in_slack_us < 0:
            late[trip.swap.await_slot].append(f"in {trip.storage.name}")
    return late
