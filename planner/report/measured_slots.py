"""A step's slots as they were simulated and as they were measured, side by side."""

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from planner.plan.schedule import lower, may_wait
from planner.plan.simulate import Timeline, simulate_plan
from profiles.schema.errors import FileError
from profiles.schema.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from planner.plan.plan import Plan

INDEX = "slot"
COLUMNS = (
    "anchor",
    "simulated_start_us",
    "measured_start_us",
    "simulated_stall_us",
    "measured_stall_us",
)
REMAKE = "plan run PLAN --slots FILE.csv"


def slot_times_table(plan: "Plan", measured: Sequence[Timeline]) -> "pd.DataFrame":
    """Returns one row per slot, in order.

    Columns: `slot` (index), `anchor`; when the slot's ops start, counted from the begin of the
    step, and how long compute stands still at its anchor before: simulated, and as the median of
    the steps measured. A measured stall holds what the runtime itself takes at the anchor, too.

    Args:
        plan: The plan.
        measured: Steps replayed under it; at least one.
    """
    import pandas as pd

    simulated = simulate_plan(plan)
    table = pd.DataFrame(
        {
            "anchor": [slot.anchor for slot in plan.slots],
            "simulated_start_us": simulated.start_us,
            "measured_start_us": _medians([timeline.start_us for timeline in measured]),
            "simulated_stall_us": simulated.stall_us,
            "measured_stall_us": _medians([timeline.stall_us for timeline in measured]),
        }
    )
    table.index.name = INDEX
    return table[list(COLUMNS)]


def slot_durations_table(slot_times: "pd.DataFrame") -> "pd.DataFrame":
    """Returns what the ops of each slot take, simulated and measured, without any stall.

    A replay passes over some anchors where it has nothing to do. The slots that such anchors open
    count to the slot before, in both columns.

    Columns: `slot` (index), `anchor`, `simulated_us`, `measured_us`.

    Args:
        slot_times: From `slot_times_table`, or from a file of it.
    """
    import pandas as pd

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
    plan: "Plan", slot_times: "pd.DataFrame", copy_times: "pd.DataFrame"
) -> "pd.DataFrame":
    """Returns what a step consists of, simulated and measured.

    `waits for copies` is what passes at the anchors where the plan waits, `the runtime itself` what
    passes at the others. They and `compute` add up to `step`; copies run beside it.

    Columns: `part` (index), `simulated_us`, `measured_us`, `ratio` (measured over simulated; not a
    number where nothing is simulated).

    Args:
        plan: The plan.
        slot_times: From `slot_times_table`.
        copy_times: From `analysis.lanes.copy_times_table`.
    """
    import pandas as pd

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


def write_slot_times(table: "pd.DataFrame", path: Path) -> None:
    """Writes the table as CSV, atomically.

    Raises:
        FileError: The path cannot be written.
    """
    write_atomically(table.to_csv(float_format="%.3f").encode(), path)


def read_slot_times(path: Path) -> "pd.DataFrame":
    """Reads the table back.

    Raises:
        FileError: The file is missing, or holds something else.
    """
    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(path.read_bytes()))
    except FileNotFoundError as error:
        raise FileError(f"{path}: there is no such file. Make it with '{REMAKE}'.") from error
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: not a CSV file. Make it with '{REMAKE}'.") from error
    if tuple(table.columns) != (INDEX, *COLUMNS):
        raise FileError(
            f"{path}: its columns are {', '.join(map(str, table.columns))}, expected "
            f"{', '.join((INDEX, *COLUMNS))}. Make it with '{REMAKE}'."
        )
    return table.set_index(INDEX)


def _medians(steps: Sequence[Sequence[float]]) -> list[float]:
    return [median(times) for times in zip(*steps, strict=True)]
