"""A plan as tables that only notebooks show: the certificate, and when swaps happen."""

import math

import pandas as pd

from planner.plan.plan import Plan
from planner.plan.simulate import Timeline
from planner.report.simulated_step import SimulatedSwap, simulated_step
from planner.report.text import certificate_rows

SWAP_COLUMNS = (
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


def certificate_table(plan: Plan) -> pd.DataFrame:
    """Returns `planner.report.text.certificate_rows` as a table.

    Columns: `figure` (index), `value` (as people read it), `comes_from`.
    """
    rows = certificate_rows(plan)
    return pd.DataFrame(rows, columns=["figure", "value", "comes_from"]).set_index("figure")


def swap_times_table(plan: Plan) -> pd.DataFrame:
    """Returns one row per swap, in order of swap-out; all times are simulated.

    Columns: `name`, `kind`, `module`, `size_bytes`, `clean` (it copies nothing to the host, so its
    `out_` times are not numbers), `out_start_us` and `out_end_us` (the copy to the host),
    `released_us` (its device bytes are given back), `allocated_us` (they are taken again),
    `in_start_us` and `in_end_us` (the copy back), `used_us` (compute goes on to use it), `away_us`
    (from release to allocation). Times count from the begin of the step of the swap-out, so those
    of a swap round the step boundary go on beyond the step's end.
    """
    step = simulated_step(plan)
    rows = [_row(moved, step.timeline) for moved in step.swaps]
    return pd.DataFrame(rows, columns=list(SWAP_COLUMNS))


def _row(moved: SimulatedSwap, timeline: Timeline) -> dict[str, object]:
    swap, storage = moved.swap, moved.storage
    back_us = timeline.step_us if moved.back_in_next_step else 0.0
    released_us = _passed_us(timeline, swap.release_slot, swap.swap_out_slot)
    allocated_us = _passed_us(timeline, swap.swap_in_slot, swap.swap_out_slot)
    return {
        "name": storage.name,
        "kind": storage.kind.value,
        "module": storage.module,
        "size_bytes": storage.size_bytes,
        "clean": swap.clean,
        "out_start_us": math.nan if moved.out is None else moved.out.start_us,
        "out_end_us": math.nan if moved.out is None else moved.out.end_us,
        "released_us": released_us,
        "allocated_us": allocated_us,
        "in_start_us": back_us + moved.back.start_us,
        "in_end_us": back_us + moved.back.end_us,
        "used_us": _passed_us(timeline, swap.await_slot, swap.swap_out_slot),
        "away_us": allocated_us - released_us,
    }


def _passed_us(timeline: Timeline, slot: int, out_slot: int) -> float:
    """When compute is past an anchor; slots before the swap-out are those of the next step."""
    steps_us = timeline.step_us if slot < out_slot else 0.0
    return steps_us + timeline.start_us[slot]
