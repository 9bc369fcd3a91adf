"""What each lane does when: compute, its stalls, and the copies each way."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

import pandas as pd

from planner.plan.simulate import Copy, Timeline, simulate_plan

if TYPE_CHECKING:
    from planner.plan.plan import Plan

import math
from typing import TYPE_CHECKING

from planner.report.simulated_step import SimulatedSwap, simulated_step

if TYPE_CHECKING:
    from planner.plan.plan import Plan

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from planner.plan.plan import Plan


COLUMNS = ("lane", "what", "size_bytes", "start_us", "end_us")
Stretch = tuple[str, str, int, float, float]


class LaneName(StrEnum):
    """A lane, or compute standing still."""

    COMPUTE = "compute"
    STALL = "stall"
    D2H = "D2H"
    H2D = "H2D"


def lanes_table(plan: "Plan", timeline: Timeline | None = None) -> pd.DataFrame:
    """Returns one row per stretch in which a lane is busy, or compute stands still.

    Columns: `lane` (a `LaneName`), `what` (the anchor of the slot, or the name of the storage that
    is copied), `size_bytes` (0 for compute), `start_us`, `end_us`, both within the step: a copy
    that goes on in the next step is two rows, the second of which begins at 0.

    Args:
        plan: The plan.
        timeline: A step under it; the simulated one if None.
    """
    step = timeline or simulate_plan(plan)
    names = {storage.id: storage.name for storage in plan.storages}
    sizes_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    rows = list(_compute(plan, step))
    for lane, copies in ((LaneName.D2H, step.d2h), (LaneName.H2D, step.h2d)):
        for copy in copies:
            what = (lane.value, names[copy.storage], sizes_bytes[copy.storage])
            rows += [(*what, *span) for span in _within(copy, step.step_us)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def link_use_table(lanes: pd.DataFrame, step_us: float) -> pd.DataFrame:
    """Returns how busy each lane is over the step.

    Columns: `lane` (index, every `LaneName`), `stretches`, `busy_us`, `share` (of the step).

    Args:
        lanes: From `lanes_table`.
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
        lanes: From `lanes_table`.
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


def _compute(plan: "Plan", step: Timeline) -> Iterator[Stretch]:
    ends_us = (*step.start_us[1:], step.step_us)
    stalls_us = (*step.stall_us[1:], 0.0)
    for t, slot in enumerate(plan.slots):
        start_us, stall_us = step.start_us[t], step.stall_us[t]
        if stall_us > 0:
            yield LaneName.STALL.value, slot.anchor, 0, start_us - stall_us, start_us
        if ends_us[t] - stalls_us[t] > start_us:
            yield LaneName.COMPUTE.value, slot.anchor, 0, start_us, ends_us[t] - stalls_us[t]


def _within(copy: Copy, step_us: float) -> Iterator[tuple[float, float]]:
    """The parts of a copy by step, each in the time of its own step."""
    start_us, end_us = copy.start_us, copy.end_us
    while start_us >= step_us > 0:
        start_us, end_us = start_us - step_us, end_us - step_us
    if end_us <= step_us:
        yield start_us, end_us
    else:
        yield start_us, step_us
        yield 0.0, min(end_us - step_us, step_us)


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


def swap_times_table(plan: "Plan") -> pd.DataFrame:
    """Returns one row per swap, in order of swap-out; all times are simulated.

    Columns: `name`, `kind`, `module`, `size_bytes`, `clean` (it copies nothing to the host, so its
    `out_` times are not numbers), `out_start_us` and `out_end_us` (the copy to the host),
    `released_us` (its device bytes are given back), `allocated_us` (they are taken again),
    `in_start_us` and `in_end_us` (the copy back), `used_us` (compute goes on to use it), `away_us`
    (from release to allocation). Times count from the begin of the step of the swap-out, so those
    of a trip round the step boundary go on beyond the step's end.
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


COPY_COLUMNS = (
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
    return pd.DataFrame(rows, columns=list(COPY_COLUMNS))


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
