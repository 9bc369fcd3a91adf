"""A step as a trace that Perfetto and Chrome open: simulated, or a measured one beside it.

The format is the Trace Event Format's JSON object form: complete events (`X`) and instants (`i`)
on the lanes, counters (`C`), flow events (`s` and `f`) and metadata (`M`). Times in it are
microseconds. Simulated and measured steps begin at 0, with the same lanes and the same names of
slots and storages.

[Note: eighths of a microsecond] Slices of one lane must follow or enclose each other. Viewers add
start and duration in binary fractions of a microsecond, or in whole nanoseconds, rounded or cut;
either sum of neighbours' times can pass the next start by a little, and then they are drawn nested
into each other. An eighth of a microsecond is whole in both. So both ends of a slice are rounded to
eighths, and the duration is their difference, exactly. What was rounded stands exact in `args`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from planner.plan.host_memory import host_needs
from planner.plan.plan import Plan
from planner.plan.schedule import lower, may_wait
from planner.plan.simulate import Copy, Timeline
from planner.report.simulated_step import SimulatedStep, anchors_of, simulated_step
from planner.report.text import (
    anchor_text,
    certificate_rows,
    ops_text,
    storage_text,
    workload_text,
)
from profiles.schema.files import CREATED_BY, write_packed

Event = dict[str, Any]
"""One event, as it stands in the file."""

DEVICE_WITH = "device, with the plan:"
DEVICE_WITHOUT = "device, without the plan:"
BUDGET = "device, budget:"
HOST = "host pool:"


class Process(IntEnum):
    """Groups of rows; the values are process ids."""

    SIMULATED = 1
    MEASURED = 2


class Lane(IntEnum):
    """Rows of the trace; the values are its thread ids, which viewers sort by."""

    STEP = 2
    COMPUTE = 3
    D2H = 4
    H2D = 5
    NO_TIME = 6


LANE_NAMES = {
    Lane.STEP: "step",
    Lane.COMPUTE: "compute",
    Lane.D2H: "D2H: copies to the host",
    Lane.H2D: "H2D: copies back",
    Lane.NO_TIME: "slots that take no time",
}


class _Arrow(NamedTuple):
    """From the copy that brings bytes to the host to one that brings them back, issued so many
    steps later."""

    out: Copy
    back: Copy
    steps_between: int


def trace(plan: Plan, measured: Timeline | None = None) -> dict[str, Any]:
    """Returns the trace of a plan's simulated step.

    It holds one step, or as many in a row as the longest way of any bytes to the host and back, so
    that each can be followed. Counters have one value per slot: the most held at any of its ops.
    A measured step, replayed under the plan, is drawn as a process of its own.
    """
    step = simulated_step(plan)
    arrows = tuple(_arrows(step))
    count = 1 + max((arrow.steps_between for arrow in arrows), default=0)
    # All steps are alike: each begins when the one before ends.
    begins_us = [number * step.timeline.step_us for number in range(count)]
    events = [
        event
        for number, begin_us in enumerate(begins_us)
        for event in (
            _step_event(step, number, begin_us),
            *_compute_events(step, begin_us),
            *_rebuild_events(step, begin_us),
            *_copy_events(step, begin_us),
            *_counter_events(step, begin_us),
        )
    ]
    # A viewer binds a flow to the slice that is open: of events at one time, slices come first.
    events.extend(_flow_events(arrows, begins_us))
    events = [*_metadata_events(plan, Process.SIMULATED), *_in_order(events)]
    times = "simulated"
    if measured is not None:
        about = _metadata_events(plan, Process.MEASURED)
        events = [*about, *events, *_in_order(_measured_events(plan, measured))]
        times = "two processes: measured and simulated"
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "created_by": CREATED_BY,
            "times": times,
            **{what: f"{value} {how}".rstrip() for what, value, how in certificate_rows(plan)},
        },
    }


def write_trace(plan: Plan, path: Path, measured: Timeline | None = None) -> None:
    """Writes what `trace` returns, atomically; a path that ends in `.gz` is compressed.

    Raises:
        FileError: The path cannot be written.
    """
    text = json.dumps(trace(plan, measured), separators=(",", ":"), allow_nan=False)
    write_packed(text.encode(), path)


def on_grid_us(time_us: float) -> float:
    """Rounds a time as the file has it; see [Note: eighths of a microsecond]."""
    return round(time_us * 8) / 8


def _in_order(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event["ts"])


def _metadata_events(plan: Plan, process: Process) -> Iterator[Event]:
    """Names a process and its lanes."""
    title = f"swapplan, {process.name.lower()}: {workload_text(plan)}"
    yield {"ph": "M", "name": "process_name", "pid": process.value, "args": {"name": title}}
    for lane, name in LANE_NAMES.items():
        row = {"ph": "M", "pid": process.value, "tid": lane.value}
        yield row | {"name": "thread_name", "args": {"name": name}}
        yield row | {"name": "thread_sort_index", "args": {"sort_index": lane.value}}


def _step_event(step: SimulatedStep, number: int, begin_us: float) -> Event:
    timeline, about = step.timeline, step.plan.certificate
    args = {
        "step_us": timeline.step_us,
        "recompute_us": about.recompute_us,
        "stall_us": timeline.total_stall_us,
        "bound_beyond_us": about.bound_beyond_us,
        "budget_bytes": step.plan.budget_bytes,
        "peak_bytes": about.peak_bytes,
        "peak_without_bytes": about.peak_without_bytes,
        "d2h_bytes": about.d2h_bytes,
        "h2d_bytes": about.h2d_bytes,
        "host_pool_bytes": step.plan.host_pool_bytes,
    }
    return _slice(Lane.STEP, f"step {number + 1}", begin_us, begin_us + timeline.step_us, args)


def _compute_events(step: SimulatedStep, begin_us: float) -> Iterator[Event]:
    slots, timeline = step.plan.slots, step.timeline
    # The same numbers as where the slices of what is run again end.
    again_until_us = {again.rebuild.slot: again.end_us for again in step.rebuilds}
    for t, slot in enumerate(slots):
        start_us, stall_us = begin_us + timeline.start_us[t], timeline.stall_us[t]
        if stall_us > 0:
            waits = {"slot": t, "anchor": slot.anchor, "stall_us": stall_us}
            yield _slice(Lane.COMPUTE, "stall", start_us - stall_us, start_us, waits)
        own_us = begin_us + again_until_us.get(t, timeline.start_us[t])
        if slot.duration_us > slot.recompute_us:
            args = {"slot": t, "op_that_needs_most": slot.peak_op}
            if slot.shows is not None:
                args["shows"] = step.plan.storage(slot.shows).name
            yield _slice(Lane.COMPUTE, slot.anchor, own_us, start_us + slot.duration_us, args)
    brief = [t for t, slot in enumerate(slots) if slot.duration_us == 0]
    for start_us, group in groupby(brief, key=timeline.start_us.__getitem__):
        at_once = {str(t): slots[t].anchor for t in group}
        name, more = next(iter(at_once.values())), len(at_once) - 1
        yield {
            "ph": "i",
            "s": "t",
            "name": f"{name} +{more}" if more else name,
            "cat": Lane.NO_TIME.name.lower(),
            "pid": Process.SIMULATED.value,
            "tid": Lane.NO_TIME.value,
            "ts": on_grid_us(begin_us + start_us),
            "args": {"slots": at_once},
        }


def _rebuild_events(step: SimulatedStep, begin_us: float) -> Iterator[Event]:
    """What is run again, on the lane of compute, before the slot's own ops."""
    plan = step.plan
    for again in step.rebuilds:
        rebuild = again.rebuild
        args = {
            "slot": rebuild.slot,
            "anchor": anchor_text(plan, rebuild.slot),
            "recompute_us": rebuild.recompute_us,
            "bytes": sum(storage.size_bytes for storage in again.storages),
            "fills": [storage_text(storage) for storage in again.storages],
            "dropped_at": [anchor_text(plan, drop.slot) for drop in rebuild.drops],
        }
        start_us, end_us = begin_us + again.start_us, begin_us + again.end_us
        yield _slice(Lane.COMPUTE, f"again: {ops_text(rebuild)}", start_us, end_us, args)


def _copy_events(step: SimulatedStep, begin_us: float) -> Iterator[Event]:
    for moved in step.swaps:
        storage = moved.storage
        args = {
            "storage": storage.id,
            "bytes": storage.size_bytes,
            "kind": storage.kind.value,
            "module": storage.module,
            **anchors_of(step.plan, moved.swap),
            "clean": moved.swap.clean,
            "back_in_next_step": moved.back_in_next_step,
        }
        copies = (
            (Lane.D2H, moved.out, moved.out_slack_us),
            (Lane.H2D, moved.back, moved.in_slack_us),
        )
        for lane, copy, slack_us in copies:
            if copy is not None:
                start_us, end_us = begin_us + copy.start_us, begin_us + copy.end_us
                yield _slice(lane, storage.name, start_us, end_us, args | {"slack_us": slack_us})


def _counter_events(step: SimulatedStep, begin_us: float) -> Iterator[Event]:
    series = {
        DEVICE_WITH: step.with_bytes,
        DEVICE_WITHOUT: step.without_bytes,
        BUDGET: [step.plan.budget_bytes] * len(step.plan.slots),
        HOST: step.host_bytes,
    }
    for name, sizes_bytes in series.items():
        before = None
        for start_us, size_bytes in zip(step.timeline.start_us, sizes_bytes, strict=True):
            if size_bytes != before:
                yield {
                    "ph": "C",
                    "name": name,
                    "pid": Process.SIMULATED.value,
                    "ts": on_grid_us(begin_us + start_us),
                    "args": {"bytes": size_bytes},
                }
            before = size_bytes


def _arrows(step: SimulatedStep) -> Iterator[_Arrow]:
    """Pairs each copy back with the copy to the host that it reads: for a clean swap, an earlier
    swap's. Bytes that nothing ever writes were copied before the first step: no arrow."""
    plan = step.plan
    copies = host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots)).of_swap
    copied = {copy: moved for copy, moved in zip(copies, step.swaps, strict=True) if moved.out}
    for copy, moved in zip(copies, step.swaps, strict=True):
        source = copied.get(copy)
        if source is not None and source.out is not None:
            # Before the first swap of a step comes the last one of the step before.
            is_before = moved.swap.swap_out_slot < source.swap.swap_out_slot
            yield _Arrow(source.out, moved.back, moved.back_in_next_step + is_before)


def _flow_events(arrows: Sequence[_Arrow], begins_us: Sequence[float]) -> Iterator[Event]:
    number = 0
    for step, begin_us in enumerate(begins_us):
        for out, back, steps_between in arrows:
            if step + steps_between >= len(begins_us):
                continue
            number += 1
            out_us = on_grid_us(begin_us + out.start_us)
            back_us = on_grid_us(begins_us[step + steps_between] + back.start_us)
            flow = {"name": "swap", "cat": "swap", "id": number, "pid": Process.SIMULATED.value}
            yield flow | {"ph": "s", "tid": Lane.D2H.value, "ts": out_us}
            yield flow | {"ph": "f", "bp": "e", "tid": Lane.H2D.value, "ts": back_us}


def _measured_events(plan: Plan, measured: Timeline) -> Iterator[Event]:
    """The measured step. Slots go from the end of their stall to the next anchor.

    A stall is drawn where the plan waits for a copy, and is all that passes at that anchor. At the
    others what passes is the runtime's own time; it shows as a space before the slot.
    """
    drawn = partial(_slice, process=Process.MEASURED)
    totals = {"step_us": measured.step_us, "stall_us": measured.total_stall_us}
    yield drawn(Lane.STEP, "step", 0.0, measured.step_us, totals)
    waits = may_wait(lower(plan))
    stalls_us = (*measured.stall_us[1:], 0.0)
    ends_us = (*measured.start_us[1:], measured.step_us)
    rows = zip(plan.slots, measured.start_us, measured.stall_us, ends_us, stalls_us, strict=True)
    for t, (slot, start_us, stall_us, next_us, next_stall_us) in enumerate(rows):
        args = {"slot": t, "anchor": slot.anchor, "stall_us": stall_us}
        if waits[t]:
            yield drawn(Lane.COMPUTE, "stall", start_us - stall_us, start_us, args)
        yield drawn(Lane.COMPUTE, slot.anchor, start_us, next_us - next_stall_us, args)
    storages = plan.by_id
    for lane, copies in ((Lane.D2H, measured.d2h), (Lane.H2D, measured.h2d)):
        for copy in copies:
            storage = storages[copy.storage]
            args = {"storage": storage.id, "bytes": storage.size_bytes}
            yield drawn(lane, storage.name, copy.start_us, copy.end_us, args)


def _slice(
    lane: Lane,
    name: str,
    start_us: float,
    end_us: float,
    args: Mapping[str, Any],
    process: Process = Process.SIMULATED,
) -> Event:
    """A complete event; see [Note: eighths of a microsecond]."""
    start_us, end_us = on_grid_us(start_us), on_grid_us(end_us)
    return {
        "ph": "X",
        "name": name,
        "cat": lane.name.lower(),
        "pid": process.value,
        "tid": lane.value,
        "ts": start_us,
        "dur": end_us - start_us,
        "args": dict(args),
    }
