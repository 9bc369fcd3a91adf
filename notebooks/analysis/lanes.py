"""How busy each lane is: compute, its stalls, and the copies each way."""

import pandas as pd

from planner.report.lanes import LaneName


def link_use_table(lanes: pd.DataFrame, step_us: float) -> pd.DataFrame:
    """Returns how busy each lane is over the step.

    Columns: `lane` (index, every `LaneName`), `stretches`, `busy_us`, `share` (of the step).

    Args:
        lanes: From `planner.report.lanes.lanes_table`.
        step_us: The step's time.
    """
    busy = pd.DataFrame(
        {
            "lane": lanes["lane"],
            "stretches": 1,
            "busy_us": (lanes["end_us"] - lanes["start_us"]).astype(float),
        }
    )
    table = busy.groupby("lane").sum().reindex([lane.value for lane in LaneName], fill_value=0)
    table["share"] = table["busy_us"] / max(step_us, 1e-9)
    return table


def link_use_over_time_table(lanes: pd.DataFrame, step_us: float, *, parts: int) -> pd.DataFrame:
    """Returns how busy each lane is in each of equal parts of the step.

    Columns: `start_us` (index), and one per `LaneName`: the share of the part.

    Args:
        lanes: From `planner.report.lanes.lanes_table`.
        step_us: The step's time.
        parts: How many.
    """
    part_us = step_us / parts
    starts_us = [part * part_us for part in range(parts)]
    index = pd.Index(starts_us, name="start_us")
    table = pd.DataFrame(0.0, index=index, columns=[lane.value for lane in LaneName])
    for start_us in starts_us:
        overlaps_us = (
            lanes["end_us"].clip(upper=start_us + part_us) - lanes["start_us"].clip(lower=start_us)
        ).clip(lower=0.0)
        shares = overlaps_us.groupby(lanes["lane"]).sum() / max(part_us, 1e-9)
        table.loc[start_us, shares.index] = shares
    return table
