"""Where compute waits, and for which copies."""

from collections import defaultdict
from typing import TYPE_CHECKING

import pandas as pd

from planner.simulate import simulate_plan
from planner.trips import Trip, trips

if TYPE_CHECKING:
    from planner.plan import Plan


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


def _late_copies(moved: tuple[Trip, ...]) -> dict[int, list[str]]:
    late: dict[int, list[str]] = defaultdict(list)
    for trip in moved:
        if trip.out_slack_us is not None and trip.out_slack_us < 0:
            late[trip.swap.release_slot].append(f"out {trip.storage.name}")
        if trip.in_slack_us < 0:
            late[trip.swap.await_slot].append(f"in {trip.storage.name}")
    return late
