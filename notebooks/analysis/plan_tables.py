"""Plans as tables that only notebooks show: the certificate, memory, and the parts of a step."""

import pandas as pd

from planner.plan.plan import Plan
from planner.plan.schedule import lower, may_wait
from planner.report.simulated_step import simulated_step
from planner.report.text import certificate_rows


def certificate_table(plan: Plan) -> pd.DataFrame:
    """Returns `planner.report.text.certificate_rows` as a table.

    Columns: `figure` (index), `value` (as people read it), `comes_from`.
    """
    rows = certificate_rows(plan)
    return pd.DataFrame(rows, columns=["figure", "value", "comes_from"]).set_index("figure")


def planned_memory_table(plan: Plan) -> pd.DataFrame:
    """Returns the memory of one step under a plan, one row per slot, in simulated time.

    Columns: `slot` (index), `anchor`, `start_us` (simulated, stalls included), `without_bytes`
    (resident with nothing swapped), `with_bytes` (under the plan), `host_bytes` (waiting in the
    host pool).
    """
    step = simulated_step(plan)
    table = pd.DataFrame(
        {
            "anchor": [slot.anchor for slot in plan.slots],
            "start_us": step.timeline.start_us,
            "without_bytes": step.without_bytes,
            "with_bytes": step.with_bytes,
            "host_bytes": step.host_bytes,
        }
    )
    return table.rename_axis("slot")


def slot_durations_table(slot_times: pd.DataFrame) -> pd.DataFrame:
    """Returns what the ops of each slot take, simulated and measured, without any stall.

    A replay passes over some anchors where it has nothing to do. The slots that such anchors open
    count to the slot before, in both columns.

    Columns: `slot` (index), `anchor`, `simulated_us`, `measured_us`.

    Args:
        slot_times: From `planner.report.tables.slot_times_table`.
    """
    table = pd.DataFrame({"anchor": slot_times["anchor"]})
    for which in ("simulated", "measured"):
        starts_us = slot_times[f"{which}_start_us"]
        arrivals_us = starts_us - slot_times[f"{which}_stall_us"]
        table[f"{which}_us"] = (arrivals_us.shift(-1) - starts_us).fillna(0.0)
    passed_over = (table["measured_us"] == 0) & (slot_times["measured_stall_us"] == 0)
    passed_over.iloc[[0, -1]] = False
    groups = (~passed_over).cumsum()
    sums = table.groupby(groups)[["simulated_us", "measured_us"]].transform("sum")
    table[["simulated_us", "measured_us"]] = sums
    return table[~passed_over]


def step_parts_table(
    plan: Plan, slot_times: pd.DataFrame, copy_times: pd.DataFrame
) -> pd.DataFrame:
    """Returns what a step consists of, simulated and measured.

    `waits for copies` is what passes at the anchors where the plan waits, `the runtime itself` what
    passes at the others. They and `compute` add up to `step`; copies run beside it.

    Columns: `part` (index), `simulated_us`, `measured_us`, `ratio` (measured over simulated; not a
    number where nothing is simulated).

    Args:
        plan: The plan.
        slot_times: From `planner.report.tables.slot_times_table`.
        copy_times: From `analysis.lanes.copy_times_table`.
    """
    waits = list(may_wait(lower(plan)))
    rows = {}
    for which in ("simulated_us", "measured_us"):
        stalls_us = slot_times[which.replace("_us", "_stall_us")]
        compute_us = slot_durations_table(slot_times)[which].sum()
        copies_us = copy_times.groupby("lane")[which].sum()
        rows[which] = {
            "step": compute_us + stalls_us.sum(),
            "compute": compute_us,
            "waits for copies": stalls_us[waits].sum(),
            "the runtime itself": stalls_us.sum() - stalls_us[waits].sum(),
            "copies to the host": copies_us.get("D2H", 0.0),
            "copies back": copies_us.get("H2D", 0.0),
        }
    table = pd.DataFrame(rows)
    table.index.name = "part"
    table["ratio"] = table["measured_us"] / table["simulated_us"].where(table["simulated_us"] > 0)
    return table
