"""A step's copies as they were simulated and as they were measured, side by side."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from planner.lane_stretches import LaneName
from planner.simulate import Copy, Timeline, simulate_plan

if TYPE_CHECKING:
    import pandas as pd

    from planner.plan import Plan

COLUMNS = (
    "lane",
    "name",
    "size_bytes",
    "simulated_start_us",
    "measured_start_us",
    "simulated_us",
    "measured_us",
)


def copy_times_table(plan: "Plan", measured: Sequence[Timeline]) -> "pd.DataFrame":
    """Returns one row per copy: those to the host in order of issue, then those back.

    Columns: `lane` (`D2H` or `H2D`), `name`, `size_bytes`; when the copy starts, counted from the
    begin of the step, and what it takes: simulated, and as the median of the steps measured.

    Args:
        plan: The plan.
        measured: Steps replayed under it; at least one.
    """
    import pandas as pd

    simulated = simulate_plan(plan)
    rows = [
        *_rows(plan, LaneName.D2H, simulated.d2h, [step.d2h for step in measured]),
        *_rows(plan, LaneName.H2D, simulated.h2d, [step.h2d for step in measured]),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(
    plan: "Plan",
    lane: LaneName,
    simulated: Sequence[Copy],
    measured: Sequence[Sequence[Copy]],
) -> Iterator[tuple[object, ...]]:
    storages = {storage.id: storage for storage in plan.storages}
    for one, *others in zip(simulated, *measured, strict=True):
        storage = storages[one.storage]
        yield (
            lane.value,
            storage.name,
            storage.size_bytes,
            one.start_us,
            median(copy.start_us for copy in others),
            one.end_us - one.start_us,
            median(copy.end_us - copy.start_us for copy in others),
        )
