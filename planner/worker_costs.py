"""What one plan costs when so many workers of a host follow it at once, simulated."""

import math
from collections.abc import Iterable

import pandas as pd

from planner.plan import Plan
from planner.schedule import lower
from planner.shared_link import Exchange, shared_link
from planner.simulate import simulate
from profiles.errors import QuantityError
from profiles.profile import Link
from profiles.sharing import Sharing

COUNTS = (1, 2, 4, 8)
"""Workers on the hosts that there are."""
COLUMNS = (
    "workers",
    "d2h_bytes_per_us",
    "h2d_bytes_per_us",
    "both_bytes_per_us",
    "stall_us",
    "step_us",
    "host_pool_bytes",
)


def worker_costs_table(
    plan: Plan,
    link: Link,
    sharing: Sharing,
    exchange: Exchange | None = None,
    counts: Iterable[int] = COUNTS,
) -> pd.DataFrame:
    """Returns one row per number of workers, the plan being the same for all.

    Columns: `workers`, the rates one worker is left with (`d2h_bytes_per_us`, `h2d_bytes_per_us`,
    and `both_bytes_per_us`, NaN if neither direction slows the other), the simulated `stall_us`
    and `step_us`, and `host_pool_bytes`, of all workers together. Where summing gradients leaves
    nothing of the link, rates and times are NaN.

    Args:
        plan: The plan.
        link: As one worker alone sees it; not the plan's, if that is shared.
        sharing: What workers share.
        exchange: Gradients summed over this link, if they are.
        counts: How many workers.
    """
    rows = [_row(plan, link, sharing, exchange, count) for count in counts]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    plan: Plan, link: Link, sharing: Sharing, exchange: Exchange | None, workers: int
) -> dict[str, float]:
    row: dict[str, float] = {"workers": workers, "host_pool_bytes": workers * plan.host_pool_bytes}
    try:
        left = shared_link(link, workers=workers, sharing=sharing, exchange=exchange)
    except QuantityError:
        return row
    both = left.both_bytes_per_us
    timeline = simulate(
        durations_us=[slot.duration_us for slot in plan.slots],
        sizes_bytes={storage.id: storage.size_bytes for storage in plan.storages},
        link=left,
        schedule=lower(plan),
        engines=plan.engines,
    )
    return {
        **row,
        "d2h_bytes_per_us": left.d2h_bytes_per_us,
        "h2d_bytes_per_us": left.h2d_bytes_per_us,
        "both_bytes_per_us": math.nan if both is None else both,
        "stall_us": timeline.total_stall_us,
        "step_us": timeline.step_us,
    }
