"""What each lane does when: compute, its stalls, and the copies each way."""

from collections.abc import Iterator
from enum import StrEnum

import pandas as pd

from planner.plan.plan import Plan
from planner.plan.simulate import Copy, Timeline, simulate_plan

COLUMNS = ("lane", "what", "size_bytes", "start_us", "end_us")
Stretch = tuple[str, str, int, float, float]


class LaneName(StrEnum):
    """A lane, compute that runs ops again, or compute that waits."""

    COMPUTE = "compute"
    RECOMPUTE = "recompute"
    STALL = "stall"
    D2H = "D2H"
    H2D = "H2D"


def lanes_table(plan: Plan, timeline: Timeline | None = None) -> pd.DataFrame:
    """Returns one row per stretch in which a lane is busy, or compute waits.

    Columns: `lane` (a `LaneName`), `what` (the anchor of the slot, or the name of the storage that
    is copied), `size_bytes` (0 for compute), `start_us`, `end_us`, both within the step: a copy
    that goes on in the next step is two rows, the second of which begins at 0. What is run again
    takes as long as planned, in a measured step too.

    Args:
        plan: The plan.
        timeline: A step under it; the simulated one if None.
    """
    step = timeline or simulate_plan(plan)
    rows = list(_compute(plan, step))
    for lane, copies in ((LaneName.D2H, step.d2h), (LaneName.H2D, step.h2d)):
        for copy in copies:
            storage = plan.by_id[copy.storage]
            what = (lane.value, storage.name, storage.size_bytes)
            rows += [(*what, *span) for span in _within(copy, step.step_us)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compute(plan: Plan, step: Timeline) -> Iterator[Stretch]:
    ends_us = (*step.start_us[1:], step.step_us)
    stalls_us = (*step.stall_us[1:], 0.0)
    for t, slot in enumerate(plan.slots):
        start_us, stall_us = step.start_us[t], step.stall_us[t]
        if stall_us > 0:
            yield LaneName.STALL.value, slot.anchor, 0, start_us - stall_us, start_us
        # A measured slot may be over before it should have been.
        end_us = max(start_us, ends_us[t] - stalls_us[t])
        own_us = min(start_us + slot.recompute_us, end_us)
        if own_us > start_us:
            yield LaneName.RECOMPUTE.value, slot.anchor, 0, start_us, own_us
        if end_us > own_us:
            yield LaneName.COMPUTE.value, slot.anchor, 0, own_us, end_us


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
