"""A plan as one HTML page that needs nothing else: no network, no other file.

The page is put together from a template, a style sheet and a script beside this module. What the
plan says goes in as text that is escaped, and as JSON that the script reads and only ever shows as
text. A policy in the page lets the browser run that one script and load nothing.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from planner.plan.plan import Plan, Without
from planner.report.simulated_step import SimulatedStep, simulated_step
from planner.report.tables import rebuilds_table, waits_table
from planner.report.text import (
    OFFERED,
    certificate_rows,
    link_text,
    moves_nothing,
    ops_text,
    rebuilds_text,
    storage_text,
    workload_text,
)
from profiles.schema.files import CREATED_BY
from profiles.schema.units import size_text, time_text

LONGEST_WAITS = 10
"""Stalls that the page lists; all are on the timeline."""
DECIMALS = 3
"""Of a microsecond, in the page's data: nanoseconds."""


def report_page(plan: Plan) -> str:
    """Returns the page of a plan."""
    step = simulated_step(plan)
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=_json(page_data(step)),
        title=html.escape(workload_text(plan)),
        tiles=_tiles(plan),
        certificate=_rows(certificate_rows(plan)),
        waits=_waits(step),
        rebuilds=_rebuilds(plan),
        about=html.escape(_about(plan)),
        link=html.escape(link_text(plan.link)),
        times=html.escape(plan.times.value),
    )


def page_data(step: SimulatedStep) -> dict[str, Any]:
    """Returns what the script draws: one list per column, times in microseconds from the step's
    begin, sizes in bytes."""
    return {
        "step_us": round(step.timeline.step_us, DECIMALS),
        "budget_bytes": step.plan.budget_bytes,
        "slots": _slot_columns(step),
        "swaps": _swap_columns(step),
        "rebuilds": _rebuild_columns(step),
    }


def _slot_columns(step: SimulatedStep) -> dict[str, list[Any]]:
    slots = step.plan.slots
    return {
        "anchor": [slot.anchor for slot in slots],
        "op": [slot.peak_op for slot in slots],
        "start_us": _rounded(step.timeline.start_us),
        "stall_us": _rounded(step.timeline.stall_us),
        "duration_us": _rounded(slot.duration_us for slot in slots),
        "recompute_us": _rounded(slot.recompute_us for slot in slots),
        "with_bytes": list(step.with_bytes),
        "without_bytes": list(step.without_bytes),
        "host_bytes": list(step.host_bytes),
    }


def _swap_columns(step: SimulatedStep) -> dict[str, list[Any]]:
    swaps = step.swaps
    return {
        "name": [moved.storage.name for moved in swaps],
        "kind": [moved.storage.kind.value for moved in swaps],
        "module": [moved.storage.module for moved in swaps],
        "size_bytes": [moved.storage.size_bytes for moved in swaps],
        "swap_out": [moved.swap.swap_out_slot for moved in swaps],
        "release": [moved.swap.release_slot for moved in swaps],
        "swap_in": [moved.swap.swap_in_slot for moved in swaps],
        "await": [moved.swap.await_slot for moved in swaps],
        "out_start_us": _rounded(moved.out and moved.out.start_us for moved in swaps),
        "out_end_us": _rounded(moved.out and moved.out.end_us for moved in swaps),
        "in_start_us": _rounded(moved.back.start_us for moved in swaps),
        "in_end_us": _rounded(moved.back.end_us for moved in swaps),
        "out_slack_us": _rounded(moved.out_slack_us for moved in swaps),
        "in_slack_us": _rounded(moved.in_slack_us for moved in swaps),
    }


def _rebuild_columns(step: SimulatedStep) -> dict[str, list[Any]]:
    rebuilds = step.rebuilds
    return {
        "slot": [again.rebuild.slot for again in rebuilds],
        "start_us": _rounded(again.start_us for again in rebuilds),
        "end_us": _rounded(again.end_us for again in rebuilds),
        "ops": [ops_text(again.rebuild) for again in rebuilds],
        "storages": [", ".join(map(storage_text, again.storages)) for again in rebuilds],
        "size_bytes": [sum(s.size_bytes for s in again.storages) for again in rebuilds],
    }


def _rounded(times_us: Iterable[float | None]) -> list[float | None]:
    return [None if time_us is None else round(time_us, DECIMALS) for time_us in times_us]


def _tiles(plan: Plan) -> str:
    about, budget = plan.certificate, size_text(plan.budget_bytes)
    stall, bound = time_text(about.simulated_stall_us), time_text(about.bound_beyond_us)
    share, again = (
        us / about.compute_us if about.compute_us else 0.0
        for us in (about.simulated_stall_us, about.recompute_us)
    )
    back = size_text(about.h2d_bytes)
    what = "stalls" if plan.without is Without.RECOMPUTE else "recomputes and stalls"
    recompute = (
        "recompute per step",
        time_text(about.recompute_us),
        f"{again:.1%} of the step; {plan.times.value}, op by op",
    )
    tiles = (
        ("peak with the plan", size_text(about.peak_bytes), f"of a budget of {budget}; simulated"),
        ("peak without it", size_text(about.peak_without_bytes), plan.times.value),
        ("stall per step", stall, f"{share:.1%} of the step; simulated"),
        *([recompute] if plan.rebuilds else ()),
        ("gap to the bound", f"{about.optimality_gap:.2%}", f"no plan {what} less than {bound}"),
        ("moved to the host", size_text(about.d2h_bytes), f"and {back} back, per step; simulated"),
    )
    return "\n".join(
        f"<li><span>{html.escape(what)}</span><b>{html.escape(value)}</b>"
        f"<small>{html.escape(how)}</small></li>"
        for what, value, how in tiles
    )


def _waits(step: SimulatedStep) -> str:
    waits = waits_table(step)
    if waits.empty:
        return (
            '<tr><td colspan="3">Nowhere: every copy is over before compute asks for it.</td></tr>'
        )
    return _rows(
        (row.anchor, time_text(row.stall_us), ", ".join(row.waits_for))
        for row in waits.nlargest(LONGEST_WAITS, "stall_us").itertuples()
    )


def _rebuilds(plan: Plan) -> str:
    table = rebuilds_table(plan)
    if table.empty:
        return '<tr><td colspan="6">Nothing: no op is run again.</td></tr>'
    is_first = ~table.duplicated("rebuild")
    return _rows(
        (
            f"{row.module} ({row.name})" if row.module else row.name,
            size_text(row.size_bytes),
            row.dropped,
            row.rebuilt,
            row.ops if row.is_first else "with the one above",
            time_text(row.recompute_us) if row.is_first else "",
        )
        for row in table.assign(is_first=is_first).itertuples()
    )


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )


def _about(plan: Plan) -> str:
    if moves_nothing(plan):
        return "The step fits within the budget without swapping; the plan is empty."
    rebuilt = f" and {rebuilds_text(plan)} dropped and rebuilt" if plan.rebuilds else ""
    return (
        f"{len(plan.swaps)} swaps{rebuilt} per step, over {len(plan.slots)} slots, for "
        f"{plan.device.name}. {OFFERED + ' ' if plan.rebuilds else ''}Written by {CREATED_BY}."
    )


def _json(data: dict[str, Any]) -> str:
    """JSON that can stand in a page: nothing in it can end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _part(name: str) -> str:
    return (files("planner.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
