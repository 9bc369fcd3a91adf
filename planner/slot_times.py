"""A step's slots as they were simulated and as they were measured, side by side."""

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from planner.simulate import Timeline, simulate_plan
from profiles.errors import FileError
from profiles.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from planner.plan import Plan

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
