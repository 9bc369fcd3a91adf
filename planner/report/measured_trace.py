"""A measured step beside the simulated one, as one trace that Perfetto and Chrome open.

Both begin at 0, with the same lanes and the same names of slots and storages.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.plan.schedule import lower, may_wait
from planner.plan.simulate import Copy, Timeline
from planner.report.perfetto import (
    Event,
    Lane,
    Process,
    metadata_events,
    slice_event,
    trace,
    write_events,
)

if TYPE_CHECKING:
    from planner.plan.plan import Plan


def trace_beside_simulated(plan: "Plan", measured: Timeline) -> dict[str, Any]:
    """Returns the trace of a measured step, with the plan's simulated one.

    Args:
        plan: The plan.
        measured: A step replayed under it.
    """
    content = trace(plan)
    about = metadata_events(plan, Process.MEASURED)
    events = sorted(_measured_events(plan, measured), key=lambda event: event["ts"])
    other = content["otherData"] | {"times": "two processes: measured and simulated"}
    return content | {"traceEvents": [*about, *content["traceEvents"], *events], "otherData": other}


def write_trace_beside_simulated(plan: "Plan", measured: Timeline, path: Path) -> None:
    """Writes the trace, atomically; a path that ends in `.gz` is compressed.

    Raises:
        FileError: The path cannot be written.
    """
    write_events(trace_beside_simulated(plan, measured), path)


def _measured_events(plan: "Plan", measured: Timeline) -> Iterator[Event]:
    totals = {"step_us": measured.step_us, "stall_us": measured.total_stall_us}
    yield _slice(Lane.STEP, "step", 0.0, measured.step_us, totals)
    yield from _compute_events(plan, measured)
    names = {storage.id: storage.name for storage in plan.storages}
    sizes = {storage.id: storage.size_bytes for storage in plan.storages}
    outs = ((Lane.D2H, copy) for copy in measured.d2h)
    ins = ((Lane.H2D, copy) for copy in measured.h2d)
    for lane, copy in chain(outs, ins):
        args = {"storage": copy.storage, "bytes": sizes[copy.storage]}
        yield _slice(lane, names[copy.storage], *_ends(copy), args)


def _compute_events(plan: "Plan", measured: Timeline) -> Iterator[Event]:
    """Slots from the end of their stall to the next anchor.

    A stall is drawn where the plan waits for a copy, and is all that passes at that anchor. At the
    others what passes is the runtime's own time; it shows as a space before the slot.
    """
    waits = may_wait(lower(plan))
    stalls_us = (*measured.stall_us[1:], 0.0)
    ends_us = (*measured.start_us[1:], measured.step_us)
    rows = zip(plan.slots, measured.start_us, measured.stall_us, ends_us, stalls_us, strict=True)
    for t, (slot, start_us, stall_us, next_us, next_stall_us) in enumerate(rows):
        args = {"slot": t, "anchor": slot.anchor, "stall_us": stall_us}
        if waits[t]:
            yield _slice(Lane.COMPUTE, "stall", start_us - stall_us, start_us, args)
        yield _slice(Lane.COMPUTE, slot.anchor, start_us, next_us - next_stall_us, args)


def _ends(copy: Copy) -> tuple[float, float]:
    return copy.start_us, copy.end_us


def _slice(lane: Lane, name: str, start_us: float, end_us: float, args: dict[str, Any]) -> Event:
    return slice_event(lane, name, start_us, end_us, args, Process.MEASURED)
