"""What two plans do differently, what that costs, and why, as tables."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, zip_longest
from typing import Any

import pandas as pd

from planner.plan.plan import Boundary, Plan, PlannedStorage, Swap
from planner.report.text import workload_text
from profiles.schema.units import rate_text, size_text, time_text

SHORT_DIGEST = 12


class Unit(StrEnum):
    """What a figure is counted in."""

    BYTES = "bytes"
    US = "us"
    SHARE = "share"
    COUNT = "count"


class Moved(StrEnum):
    """Which of two plans moves a storage."""

    ONLY_A = "only in A"
    ONLY_B = "only in B"
    ELSEWHERE = "in both, at other anchors"
    ALIKE = "in both, alike"


@dataclass(frozen=True)
class Figure:
    """One figure of a plan or a profile.

    Attributes:
        name: What it is of.
        value: It.
        unit: What it is counted in.
        comes: Where it comes from: given, measured, estimated, simulated or a bound.
    """

    name: str
    value: float
    unit: Unit
    comes: str


def figures_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns the certificates of two plans side by side; columns as in `figures_beside`."""
    return figures_beside(_figures(one), _figures(other))


def figures_beside(one: Sequence[Figure], other: Sequence[Figure]) -> pd.DataFrame:
    """Returns the same figures of two things side by side.

    Columns: `figure` (index), `a`, `b`, `change` (from A to B), `unit`, `a_is` and `b_is` (where
    the figures come from).
    """
    rows = [
        {
            "figure": a.name,
            "a": a.value,
            "b": b.value,
            "change": b.value - a.value,
            "unit": a.unit,
            "a_is": a.comes,
            "b_is": b.comes,
        }
        for a, b in zip(one, other, strict=True)
    ]
    return pd.DataFrame(rows).set_index("figure")


def conditions_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns what two plans were made from and for, which is why they differ.

    Columns: `condition` (index), `a`, `b` (as people read them), `same`.
    """
    return compared(_conditions(one), _conditions(other))


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> pd.DataFrame:
    """Returns two mappings with the same keys side by side.

    Columns: `condition` (index), `a`, `b`, `same`.
    """
    rows = [
        {"condition": what, "a": a, "b": other[what], "same": a == other[what]}
        for what, a in one.items()
    ]
    return pd.DataFrame(rows).set_index("condition")


def moved_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns one row per storage that either plan moves, the heaviest first.

    Columns: `name` (index), `kind`, `module` (its leaf module), `a_bytes` and `b_bytes` (of the
    storage; 0 where the plan does not know it), `a_trips` and `b_trips` (swaps per step), `moved`
    (a `Moved`), and `why` (what keeps the other plan from moving it; empty if that was its choice).
    """
    a_trips, b_trips = _trips(one), _trips(other)
    a_known, b_known = _storages(one), _storages(other)
    rows = [
        {
            "name": name,
            "kind": (a_known.get(name) or b_known[name]).kind.value,
            "module": (a_known.get(name) or b_known[name]).module,
            "a_bytes": a_known[name].size_bytes if name in a_known else 0,
            "b_bytes": b_known[name].size_bytes if name in b_known else 0,
            "a_trips": len(a_trips.get(name, ())),
            "b_trips": len(b_trips.get(name, ())),
            **_which(one, other, name, a_trips.get(name, ()), b_trips.get(name, ())),
        }
        for name in sorted({*a_trips, *b_trips})
    ]
    sizes = ["a_bytes", "b_bytes", "a_trips", "b_trips"]
    columns = ["name", "kind", "module", *sizes, "moved", "why"]
    table = pd.DataFrame(rows, columns=columns).set_index("name")
    heaviest = table[["a_bytes", "b_bytes"]].max(axis=1).sort_values(ascending=False, kind="stable")
    return table.loc[heaviest.index]


def moved_totals_table(moved: pd.DataFrame) -> pd.DataFrame:
    """Returns how much moves in one plan, in the other, and in both.

    Columns: `moved` (index, every `Moved`), `storages`, `a_bytes` and `b_bytes` (copied back per
    step).

    Args:
        moved: From `moved_table`.
    """
    totals = pd.DataFrame(
        {
            "moved": moved["moved"],
            "storages": 1,
            "a_bytes": moved["a_bytes"] * moved["a_trips"],
            "b_bytes": moved["b_bytes"] * moved["b_trips"],
        }
    )
    return totals.groupby("moved").sum().reindex([which.value for which in Moved], fill_value=0)


def anchors_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns where two plans do the same trip at other anchors, one row per anchor that differs.

    Trips of a storage that both plans move are paired in order of swap-out; one more of them in a
    plan stands beside nothing. The heaviest storages come first.

    Columns: `name`, `trip` (from 1), `what` (`swap-out`, `release`, `swap-in`, `await`, `to host`),
    `a`, `b` (anchors; empty where there is no such trip), `later_us` (how much later in the step B
    does it, with nothing moved; not a number unless both have the anchor and the same slots).
    """
    a_trips, b_trips = _trips(one), _trips(other)
    no_trip: dict[str, str] = {}
    starts_us = _starts_us(one) if _same_slots(one, other) else {}
    rows = [
        {
            "name": name,
            "trip": n + 1,
            "what": what,
            "a": a.get(what, ""),
            "b": b.get(what, ""),
            "later_us": starts_us.get(b.get(what), math.nan) - starts_us.get(a.get(what), math.nan),
        }
        for name in _by_weight(one, a_trips.keys() & b_trips.keys())
        for n, (a, b) in enumerate(zip_longest(a_trips[name], b_trips[name], fillvalue=no_trip))
        for what in {**a, **b}
        if a.get(what) != b.get(what)
    ]
    return pd.DataFrame(rows, columns=["name", "trip", "what", "a", "b", "later_us"])


def _by_weight(plan: Plan, names: Iterable[str]) -> list[str]:
    storages = _storages(plan)
    return sorted(names, key=lambda name: (-storages[name].size_bytes, name))


def _same_slots(one: Plan, other: Plan) -> bool:
    return one.slots == other.slots


def _starts_us(plan: Plan) -> dict[str | None, float]:
    """When each anchor is reached with nothing moved."""
    starts_us = accumulate((slot.duration_us for slot in plan.slots), initial=0.0)
    return {slot.anchor: us for slot, us in zip(plan.slots, starts_us, strict=False)}


def _figures(plan: Plan) -> list[Figure]:
    about, times = plan.certificate, plan.times.value
    return [
        Figure("budget", plan.budget_bytes, Unit.BYTES, "given"),
        Figure("peak without the plan", about.peak_without_bytes, Unit.BYTES, times),
        Figure("peak with the plan", about.peak_bytes, Unit.BYTES, "simulated"),
        Figure("swaps", len(plan.swaps), Unit.COUNT, ""),
        Figure("to the host per step", about.d2h_bytes, Unit.BYTES, "simulated"),
        Figure("back per step", about.h2d_bytes, Unit.BYTES, "simulated"),
        Figure("host pool", plan.host_pool_bytes, Unit.BYTES, "simulated"),
        Figure("step without the plan", about.compute_us, Unit.US, times),
        Figure("step with the plan", about.simulated_step_us, Unit.US, "simulated"),
        Figure("stall", about.simulated_stall_us, Unit.US, "simulated"),
        Figure("no stall is below", about.bound_stall_us, Unit.US, "bound"),
        Figure("gap to the bound", about.gap, Unit.SHARE, "simulated"),
    ]


def _conditions(plan: Plan) -> dict[str, str]:
    link, host = plan.link, plan.host_budget_bytes
    return {
        "workload": workload_text(plan),
        "profile": plan.profile_fingerprint[:SHORT_DIGEST],
        "model": plan.model_fingerprint[:SHORT_DIGEST],
        "device": f"{plan.device.kind}: {plan.device.name}",
        "kind of times": plan.times.value,
        "slots": str(len(plan.slots)),
        "link": f"{link.name} ({link.provenance.value})",
        "rate to the host": rate_text(link.d2h_bytes_per_us),
        "rate back": rate_text(link.h2d_bytes_per_us),
        "rate of both": _rate(link.both_bytes_per_us),
        "latency": time_text(link.latency_us),
        "budget": size_text(plan.budget_bytes),
        "host budget": "no limit" if host is None else size_text(host),
        "step boundary": plan.boundary.value,
        "smallest candidate": size_text(plan.min_size_bytes),
        "solver": plan.certificate.solver,
        "proof": plan.certificate.proof.value,
    }


def _rate(both_bytes_per_us: float | None) -> str:
    return "each its own" if both_bytes_per_us is None else rate_text(both_bytes_per_us)


def _storages(plan: Plan) -> dict[str, PlannedStorage]:
    return {storage.name: storage for storage in plan.storages}


def _trips(plan: Plan) -> dict[str, tuple[dict[str, str], ...]]:
    """The anchors of every trip, by the name of the storage, in order of swap-out."""
    names = {storage.id: storage.name for storage in plan.storages}
    trips: dict[str, list[dict[str, str]]] = defaultdict(list)
    for swap in sorted(plan.swaps, key=lambda swap: swap.swap_out_slot):
        trips[names[swap.storage]].append(_anchors(plan, swap))
    return {name: tuple(row) for name, row in trips.items()}


def _anchors(plan: Plan, swap: Swap) -> dict[str, str]:
    return {
        "swap-out": plan.slots[swap.swap_out_slot].anchor,
        "release": plan.slots[swap.release_slot].anchor,
        "swap-in": plan.slots[swap.swap_in_slot].anchor,
        "await": plan.slots[swap.await_slot].anchor,
        "to host": "clean, no copy" if swap.clean else "copied",
        "carried by": swap.engine.value.replace("_", " "),
    }


def _which(
    one: Plan,
    other: Plan,
    name: str,
    a_trips: tuple[dict[str, str], ...],
    b_trips: tuple[dict[str, str], ...],
) -> dict[str, str]:
    if not b_trips:
        return {"moved": Moved.ONLY_A.value, "why": _why_not(one, other, name)}
    if not a_trips:
        return {"moved": Moved.ONLY_B.value, "why": _why_not(other, one, name)}
    alike = a_trips == b_trips
    return {"moved": (Moved.ALIKE if alike else Moved.ELSEWHERE).value, "why": ""}


def _why_not(moving: Plan, staying: Plan, name: str) -> str:
    """What keeps one plan from a storage that the other one moves."""
    storage = _storages(staying).get(name)
    if storage is None:
        return "not in its step"
    if storage.size_bytes < staying.min_size_bytes:
        return "below its smallest candidate"
    swaps = [s for s in moving.swaps if moving.storage(s.storage).name == name]
    if staying.boundary is Boundary.RESIDENT and all(swap.wraps for swap in swaps):
        return "its steps begin resident"
    return ""
