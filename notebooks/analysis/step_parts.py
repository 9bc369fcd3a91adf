"""What a step consists of, simulated and measured: its slots, its stalls, its copies."""

from collections.abc import Iterator, Sequence
from statistics import median

import pandas as pd

from planner.plan.plan import Plan
from planner.plan.schedule import lower, may_wait
from planner.plan.simulate import Copy, Timeline, simulate_plan
from planner.report.lanes import LaneName

COPY_COLUMNS = (
    "lane",
    "name",
    "size_bytes",
    "simulated_start_us",
    "measured_start_us",
    "simulated_us",
    "measured_us",
)

ROUNDING_US = 1e-6
"""What differences of times may be off; a clock tells no time as short."""


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
    took_us = table["measured_us"].abs() + slot_times["measured_stall_us"].abs()
    passed_over = took_us < ROUNDING_US
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


def copy_times_table(plan: Plan, measured: Sequence[Timeline]) -> pd.DataFrame:
    """Returns one row per copy: those to the host in order of issue, then those back.

    Columns: `lane` (`D2H` or `H2D`), `name`, `size_bytes`; when the copy starts, counted from the
    begin of the step, and what it takes: simulated, and as the median of the steps measured.

    Args:
        plan: The plan.
        measured: Steps replayed under it; at least one.
    """
    simulated = simulate_plan(plan)
    rows = [
        *_copy_rows(plan, LaneName.D2H, simulated.d2h, [step.d2h for step in measured]),
        *_copy_rows(plan, LaneName.H2D, simulated.h2d, [step.h2d for step in measured]),
    ]
    return pd.DataFrame(rows, columns=list(COPY_COLUMNS))


def _copy_rows(
    plan: Plan,
    lane: LaneName,
    simulated: Sequence[Copy],
    measured: Sequence[Sequence[Copy]],
) -> Iterator[tuple[object, ...]]:
    for one, *others in zip(simulated, *measured, strict=True):
        storage = plan.by_id[one.storage]
        yield (
            lane.value,
            storage.name,
            storage.size_bytes,
            one.start_us,
            median(copy.start_us for copy in others),
            one.end_us - one.start_us,
            median(copy.end_us - copy.start_us for copy in others),
        )
