"""When each swap of a plan happens in its simulated step."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from planner.simulate import Timeline, simulate_plan
from planner.trips import Trip, trips

if TYPE_CHECKING:
    from planner.plan import Plan

COLUMNS = (
    "name",
    "kind",
    "module",
    "size_bytes",
    "clean",
    "out_start_us",
    "out_end_us",
    "released_us",
    "allocated_us",
    "in_start_us",
    "in_end_us",
    "used_us",
    "away_us",
)


def trip_times_table(plan: "Plan") -> pd.DataFrame:
    """Returns one row per swap, in order of swap-out; all times are simulated.

    Columns: `name`, `kind`, `module`, `size_bytes`, `clean` (it copies nothing to the host, so its
    `out_` times are not numbers), `out_start_us` and `out_end_us` (the copy to the host),
    `released_us` (its device bytes are given back), `allocated_us` (they are taken again),
    `in_start_us` and `in_end_us` (the copy back), `used_us` (compute goes on to use it), `away_us`
    (from release to allocation). Times count from the begin of the step of the swap-out, so those
    of a trip round the step boundary go on beyond the step's end.
    """
    timeline = simulate_plan(plan)
    rows = [_row(trip, timeline) for trip in trips(plan, timeline)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(trip: Trip, timeline: Timeline) -> dict[str, object]:
    swap, storage = trip.swap, trip.storage
    back_us = timeline.step_us if trip.back_in_next_step else 0.0
    released_us = _passed_us(timeline, swap.release_slot, swap.swap_out_slot)
    allocated_us = _passed_us(timeline, swap.swap_in_slot, swap.swap_out_slot)
    return {
        "name": storage.name,
        "kind": storage.kind.value,
        "module": storage.module,
        "size_bytes": storage.size_bytes,
        "clean": swap.clean,
        "out_start_us": math.nan if trip.out is None else trip.out.start_us,
        "out_end_us": math.nan if trip.out is None else trip.out.end_us,
        "released_us": released_us,
        "allocated_us": allocated_us,
        "in_start_us": back_us + trip.back.start_us,
        "in_end_us": back_us + trip.back.end_us,
        "used_us": _passed_us(timeline, swap.await_slot, swap.swap_out_slot),
        "away_us": allocated_us - released_us,
    }


def _passed_us(timeline: Timeline, slot: int, out_slot: int) -> float:
    """When compute is past an anchor; slots before the swap-out are those of the next step."""
    steps_us = timeline.step_us if slot < out_slot else 0.0
    return steps_us + timeline.start_us[slot]
