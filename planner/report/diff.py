"""Two plans, or two profiles, side by side, as tables: A is the first, B the second."""

import math
from collections import Counter, defaultdict
from enum import StrEnum
from itertools import accumulate, zip_longest

import pandas as pd

from planner.plan.plan import Boundary, Plan, PlannedStorage, Without
from planner.report.simulated_step import anchors_of
from planner.report.tables import kinds_table
from planner.report.text import (
    CHECKPOINTING,
    anchor_text,
    checkpointing_text,
    link_text,
    sharing_text,
    workload_text,
)
from profiles.schema.profile import Profile, Storage
from profiles.schema.units import rate_text, size_text, time_text

SHORT_DIGEST = 12

Figure = tuple[str, float, "Unit", str]
"""What it is of, its value, its unit, and what it is: given, measured, estimated, simulated or a
bound."""
Anchors = dict[str, str]
"""Where a swap does what, and how its bytes are carried."""


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


class Differs(StrEnum):
    """How a storage of one profile differs from that of the same name in the other."""

    ONLY_A = "only in A"
    ONLY_B = "only in B"
    BYTES = "other bytes"
    KIND = "other kind"
    USES = "other uses"
    LIFETIME = "other lifetime"
    LEFT_OUT = "left out of one"


def figures_table(one: Plan | Profile, other: Plan | Profile) -> pd.DataFrame:
    """Returns the figures of two plans' certificates, or of two profiles.

    Columns: `figure` (index), `a`, `b`, `change` (from A to B), `unit`, `a_is` and `b_is` (where
    the figures come from).
    """
    rows = [
        (name, a, b, b - a, unit, a_is, b_is)
        for (name, a, unit, a_is), (_, b, _, b_is) in zip(
            _figures(one), _figures(other), strict=True
        )
    ]
    columns = ["figure", "a", "b", "change", "unit", "a_is", "b_is"]
    return pd.DataFrame(rows, columns=columns).set_index("figure")


def conditions_table(one: Plan | Profile, other: Plan | Profile) -> pd.DataFrame:
    """Returns what two plans were made for, or two profiles recorded from: why they differ.

    Columns: `condition` (index), `a`, `b` (as people read them), `same`.
    """
    table = pd.DataFrame({"a": _conditions(one), "b": _conditions(other)})
    return table.assign(same=table["a"] == table["b"]).rename_axis("condition")


def _figures(source: Plan | Profile) -> list[Figure]:
    times = source.times.value
    if isinstance(source, Profile):
        storages = source.storages
        all_bytes = sum(storage.size_bytes for storage in storages)
        left_out_bytes = sum(storage.size_bytes for storage in storages if storage.left_out)
        return [
            ("peak", source.peak_bytes, Unit.BYTES, times),
            ("step time", source.step_us, Unit.US, times),
            ("ops", len(source.ops), Unit.COUNT, times),
            ("anchors", len(source.slots), Unit.COUNT, times),
            ("storages", len(storages), Unit.COUNT, times),
            ("bytes of storages", all_bytes, Unit.BYTES, times),
            ("of them left out", left_out_bytes, Unit.BYTES, times),
        ]
    about = source.certificate
    return [
        ("budget", source.budget_bytes, Unit.BYTES, "given"),
        ("peak without the plan", about.peak_without_bytes, Unit.BYTES, times),
        ("peak with the plan", about.peak_bytes, Unit.BYTES, "simulated"),
        ("swaps", len(source.swaps), Unit.COUNT, ""),
        ("dropped and rebuilt", sum(len(r.drops) for r in source.rebuilds), Unit.COUNT, ""),
        ("to the host per step", about.d2h_bytes, Unit.BYTES, "simulated"),
        ("back per step", about.h2d_bytes, Unit.BYTES, "simulated"),
        ("host pool", source.host_pool_bytes, Unit.BYTES, "simulated"),
        ("step without the plan", about.compute_us, Unit.US, times),
        ("step with the plan", about.simulated_step_us, Unit.US, "simulated"),
        ("recompute", about.recompute_us, Unit.US, times),
        ("stall", about.simulated_stall_us, Unit.US, "simulated"),
        ("recompute + stall, at least", about.bound_beyond_us, Unit.US, "bound"),
        ("gap to the bound", about.optimality_gap, Unit.SHARE, "simulated"),
    ]


def _conditions(source: Plan | Profile) -> dict[str, str]:
    link, device = source.link, source.device
    if isinstance(source, Profile):
        return {
            "workload": workload_text(source),
            "seed": str(source.workload.seed),
            "model": source.model_fingerprint[:SHORT_DIGEST],
            "device": f"{device.kind}: {device.name}",
            "compute threads": str(device.compute_threads),
            "link": link_text(link),
            "workers share": sharing_text(source.sharing),
            "kind of times": source.times.value,
            "slot times": source.slot_times.value,
            CHECKPOINTING: checkpointing_text(source),
            "steps timed": str(source.timed_steps),
            "swapplan": source.versions.swapplan,
            "torch": source.versions.torch,
            "python": source.versions.python,
        }
    both, host = link.both_bytes_per_us, source.host_budget_bytes
    return {
        "workload": workload_text(source),
        "profile": source.profile_fingerprint[:SHORT_DIGEST],
        "model": source.model_fingerprint[:SHORT_DIGEST],
        "device": f"{device.kind}: {device.name}",
        "kind of times": source.times.value,
        "slots": str(len(source.slots)),
        "link": f"{link.name} ({link.provenance.value})",
        "rate to the host": rate_text(link.d2h_bytes_per_us),
        "rate back": rate_text(link.h2d_bytes_per_us),
        "rate of both": "each its own" if both is None else rate_text(both),
        "latency": time_text(link.latency_us),
        "budget": size_text(source.budget_bytes),
        "host budget": "no limit" if host is None else size_text(host),
        "step boundary": source.boundary.value,
        "smallest candidate": size_text(source.min_size_bytes),
        "may not use": source.without.value,
        CHECKPOINTING: checkpointing_text(source),
        "solver": source.certificate.solver,
        "proof": source.certificate.proof.value,
    }


def _beside(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Rows of one name side by side, as columns `a_` and `b_`; 0 where one side has no such row."""
    a, b = one.add_prefix("a_"), other.add_prefix("b_")
    return pd.concat([a, b], axis=1).fillna(0).astype({**a.dtypes, **b.dtypes})


def _heaviest_first(table: pd.DataFrame) -> pd.DataFrame:
    weights = table[["a_bytes", "b_bytes"]].max(axis=1)
    return table.loc[weights.sort_values(ascending=False, kind="stable").index]


# ---- plans --------------------------------------------------------------------------------------


def moved_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns one row per storage that either plan moves, the heaviest first.

    Columns: `name` (index), `kind`, `module` (its leaf module), `a_bytes` and `b_bytes` (of the
    storage; 0 where the plan does not know it), `a_swaps` and `b_swaps` (per step), `moved` (a
    `Moved`), and `why` (what keeps the other plan from moving it; empty if that was its choice).
    """
    a_swaps, b_swaps = _swaps(one), _swaps(other)
    a_known, b_known = _storages(one), _storages(other)
    a_within, b_within = (
        {plan.storage(swap.storage).name for swap in plan.swaps if not swap.wraps}
        for plan in (one, other)
    )
    rows = []
    for name in sorted({*a_swaps, *b_swaps}):
        a, b = a_known.get(name), b_known.get(name)
        known = a or b_known[name]
        moved, why = Moved.ALIKE if a_swaps.get(name) == b_swaps.get(name) else Moved.ELSEWHERE, ""
        if name not in b_swaps:
            moved, why = Moved.ONLY_A, _why_not(other, b, is_within=name in a_within)
        elif name not in a_swaps:
            moved, why = Moved.ONLY_B, _why_not(one, a, is_within=name in b_within)
        sizes = (a.size_bytes if a else 0, b.size_bytes if b else 0)
        counts = (len(a_swaps.get(name, ())), len(b_swaps.get(name, ())))
        rows.append((name, known.kind.value, known.module, *sizes, *counts, moved.value, why))
    sizes_columns = ["a_bytes", "b_bytes", "a_swaps", "b_swaps"]
    columns = ["name", "kind", "module", *sizes_columns, "moved", "why"]
    return _heaviest_first(pd.DataFrame(rows, columns=columns).set_index("name"))


def moved_totals_table(moved: pd.DataFrame) -> pd.DataFrame:
    """Returns how much moves in one plan, in the other, and in both.

    Columns: `moved` (index, every `Moved`), `storages`, `a_bytes` and `b_bytes` (copied back per
    step). It is made from `moved_table`.
    """
    totals = pd.DataFrame(
        {
            "moved": moved["moved"],
            "storages": 1,
            "a_bytes": moved["a_bytes"] * moved["a_swaps"],
            "b_bytes": moved["b_bytes"] * moved["b_swaps"],
        }
    )
    return totals.groupby("moved").sum().reindex([which.value for which in Moved], fill_value=0)


def rebuilt_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns one row per storage that either plan drops and rebuilds, the heaviest first.

    Columns: `name` (index), `module`, `size_bytes`, `a`, `b` (what the plan does with it: when it
    is away, from which anchor to which, likewise if it swaps it, or `stays`).
    """
    a_does, b_does = _rebuilds(one), _rebuilds(other)
    known = {**_storages(other), **_storages(one)}
    rows = [
        (
            name,
            known[name].module,
            known[name].size_bytes,
            *(
                "; ".join(does.get(name, ())) or ("swapped" if name in swaps else "stays")
                for does, swaps in ((a_does, _swaps(one)), (b_does, _swaps(other)))
            ),
        )
        for name in {**a_does, **b_does}
    ]
    table = pd.DataFrame(rows, columns=["name", "module", "size_bytes", "a", "b"])
    return table.set_index("name").sort_values("size_bytes", ascending=False, kind="stable")


def _rebuilds(plan: Plan) -> dict[str, list[str]]:
    """Where each storage is dropped and rebuilt, by its name."""
    found: dict[str, list[str]] = defaultdict(list)
    for rebuild in plan.rebuilds:
        for drop in rebuild.drops:
            anchors = f"{anchor_text(plan, drop.slot)} to {anchor_text(plan, rebuild.slot)}"
            found[plan.storage(drop.storage).name].append(f"dropped {anchors}")
    return dict(found)


def anchors_table(one: Plan, other: Plan) -> pd.DataFrame:
    """Returns where two plans do the same swap at other anchors, one row per anchor that differs.

    Swaps of a storage that both plans move are paired in order of swap-out; one more of them in a
    plan stands beside nothing. The heaviest storages come first.

    Columns: `name`, `swap` (from 1), `what` (`swap-out`, `release`, `swap-in`, `await`, `to host`),
    `a`, `b` (anchors; empty where there is no such swap), `later_us` (how much later in the step B
    does it, with nothing moved; not a number unless both have the anchor and the same slots).
    """
    a_swaps, b_swaps = _swaps(one), _swaps(other)
    sizes = {storage.name: storage.size_bytes for storage in one.storages}
    no_swap: Anchors = {}
    starts_us = _starts_us(one) if one.slots == other.slots else {}
    rows = [
        {
            "name": name,
            "swap": n + 1,
            "what": what,
            "a": a.get(what, ""),
            "b": b.get(what, ""),
            "later_us": starts_us.get(b.get(what), math.nan) - starts_us.get(a.get(what), math.nan),
        }
        for name in sorted(a_swaps.keys() & b_swaps.keys(), key=lambda name: (-sizes[name], name))
        for n, (a, b) in enumerate(zip_longest(a_swaps[name], b_swaps[name], fillvalue=no_swap))
        for what in {**a, **b}
        if a.get(what) != b.get(what)
    ]
    return pd.DataFrame(rows, columns=["name", "swap", "what", "a", "b", "later_us"])


def _starts_us(plan: Plan) -> dict[str | None, float]:
    """When each anchor is reached with nothing moved."""
    starts_us = accumulate((slot.duration_us for slot in plan.slots), initial=0.0)
    return {slot.anchor: us for slot, us in zip(plan.slots, starts_us, strict=False)}


def _storages(plan: Plan) -> dict[str, PlannedStorage]:
    return {storage.name: storage for storage in plan.storages}


def _swaps(plan: Plan) -> dict[str, list[Anchors]]:
    """The anchors of every swap, by the name of the storage, in order of swap-out."""
    swaps: dict[str, list[Anchors]] = defaultdict(list)
    for swap in sorted(plan.swaps, key=lambda swap: swap.swap_out_slot):
        anchors = {what.replace("_", "-"): at for what, at in anchors_of(plan, swap).items()}
        anchors["to host"] = "clean, no copy" if swap.clean else "copied"
        anchors["carried by"] = swap.engine.value.replace("_", " ")
        swaps[plan.storage(swap.storage).name].append(anchors)
    return dict(swaps)


def _why_not(staying: Plan, storage: PlannedStorage | None, *, is_within: bool) -> str:
    """What keeps a plan from a storage that the other one moves, within its step or only across."""
    if storage is None:
        return "not in its step"
    if storage.name in _rebuilds(staying):
        return "rebuilt there"
    if staying.without is Without.SWAP:
        return "it may not swap"
    if storage.size_bytes < staying.min_size_bytes:
        return "below its smallest candidate"
    if staying.boundary is Boundary.RESIDENT and not is_within:
        return "its steps begin resident"
    return ""


# ---- profiles -----------------------------------------------------------------------------------


def kinds_side_by_side_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns storages by kind in two profiles.

    Columns: `kind` (index), and `a_` and `b_` of `storages`, `size_bytes` and `peak_bytes`, as in
    `planner.report.tables.kinds_table`.
    """
    columns = ["storages", "size_bytes", "peak_bytes"]
    both = _beside(kinds_table(one)[columns], kinds_table(other)[columns])
    return both.sort_values("a_peak_bytes", ascending=False, kind="stable")


def storages_that_differ_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns one row per storage that differs, the heaviest first.

    Storages are the same if their names are. Ids of ops are not compared, only how many there are.

    Columns: `name` (index), `kind`, `a_bytes`, `b_bytes` (0 where there is none), `differs`.
    """
    a_storages = {storage.name: storage for storage in one.storages}
    b_storages = {storage.name: storage for storage in other.storages}
    rows = []
    for name in {**a_storages, **b_storages}:
        a, b = a_storages.get(name), b_storages.get(name)
        kind = (a or b_storages[name]).kind.value
        sizes = (a.size_bytes if a else 0, b.size_bytes if b else 0)
        rows.append((name, kind, *sizes, ", ".join(_differs(a, b))))
    columns = ["name", "kind", "a_bytes", "b_bytes", "differs"]
    table = pd.DataFrame(rows, columns=columns).set_index("name")
    return _heaviest_first(table[table["differs"] != ""])


def op_times_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns the time of each operator, all its ops of a step together, the largest change first.

    Columns: `op` (index), `a_ops`, `b_ops`, `a_us`, `b_us`, `change_us` (from A to B).
    """
    sides = [
        pd.DataFrame(
            {
                "op": [op.name for op in profile.ops],
                "ops": 1,
                "us": [op.duration_us for op in profile.ops],
            }
        )
        for profile in (one, other)
    ]
    table = _beside(*(ops.groupby("op").sum() for ops in sides))
    table["change_us"] = table["b_us"] - table["a_us"]
    largest = table["change_us"].abs().sort_values(ascending=False, kind="stable")
    return table.loc[largest.index, ["a_ops", "b_ops", "a_us", "b_us", "change_us"]]


def anchors_that_differ_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns the anchors that only one of two profiles has, in its order.

    Columns: `anchor`, `only_in` (`A` or `B`), `slot` (there).
    """
    rows = []
    for letter, here, there in (("A", one, other), ("B", other, one)):
        left = Counter(slot.anchor for slot in there.slots)
        for number, slot in enumerate(here.slots):
            if left[slot.anchor]:
                left[slot.anchor] -= 1
            else:
                rows.append((slot.anchor, letter, number))
    return pd.DataFrame(rows, columns=["anchor", "only_in", "slot"])


def first_other_slot(one: Profile, other: Profile) -> int | None:
    """Returns the first slot with another anchor, or None if all are the same."""
    a, b = ([slot.anchor for slot in profile.slots] for profile in (one, other))
    return next((slot for slot, (x, y) in enumerate(zip_longest(a, b)) if x != y), None)


def _differs(one: Storage | None, other: Storage | None) -> list[Differs]:
    if other is None:
        return [Differs.ONLY_A]
    if one is None:
        return [Differs.ONLY_B]
    found = {
        Differs.BYTES: one.size_bytes != other.size_bytes,
        Differs.KIND: one.kind is not other.kind,
        Differs.USES: [use.access for use in one.uses] != [use.access for use in other.uses],
        Differs.LIFETIME: _lifetime(one) != _lifetime(other),
        Differs.LEFT_OUT: one.left_out is not other.left_out,
    }
    return [differs for differs, is_so in found.items() if is_so]


def _lifetime(storage: Storage) -> tuple[bool, bool]:
    """Whether it is there before the step, and after it."""
    return storage.allocated_op is None, storage.released_op is None
