"""Profiles and plans as pandas tables: to read, to plot, to work on in a notebook."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from operator import sub
from statistics import median

import pandas as pd

from planner.plan.device_memory import planned_bytes, unplanned_bytes
from planner.plan.plan import Plan
from planner.plan.simulate import Timeline, simulate_plan
from planner.report.simulated_step import SimulatedStep, simulated_step
from planner.report.text import anchor_text, ops_text
from profiles.schema.memory import alive_at, peak_moment, slot_memory
from profiles.schema.profile import Profile


def storages_table(profile: Profile) -> pd.DataFrame:
    """Returns one row per storage.

    Columns: `id` (index), `name`, `kind`, `size_bytes`, `module`, `uses` (how many ops touch it),
    `at_peak` (is it allocated when the most bytes are), `left_out` (why it cannot move, or "").
    """
    at_peak = {storage.id for storage in alive_at(profile, peak_moment(profile))}
    rows = [
        {
            "id": storage.id,
            "name": storage.name,
            "kind": storage.kind.value,
            "size_bytes": storage.size_bytes,
            "module": storage.module,
            "uses": len(storage.uses),
            "at_peak": storage.id in at_peak,
            "left_out": storage.left_out.value if storage.left_out else "",
        }
        for storage in profile.storages
    ]
    columns = ["id", "name", "kind", "size_bytes", "module", "uses", "at_peak", "left_out"]
    return pd.DataFrame(rows, columns=columns).set_index("id")


def kinds_table(profile: Profile) -> pd.DataFrame:
    """Returns one row per kind of storage, the heaviest at the peak first.

    Columns: `kind` (index), `storages`, `size_bytes` (all of the step together, even if they are
    never alive at once), `peak_bytes` (allocated when the most bytes are), `left_out_bytes`.
    """
    storages = storages_table(profile)
    left_out_bytes = storages["size_bytes"].where(storages["left_out"] != "", 0)
    return _grouped(storages.assign(left_out_bytes=left_out_bytes), ["kind"], ["left_out_bytes"])


def peak_overhead_bytes(profile: Profile) -> int:
    """Returns what the device needs beyond the storages' own bytes when it needs the most."""
    return profile.slots[peak_moment(profile).slot].overhead_bytes


def left_out_table(profile: Profile) -> pd.DataFrame:
    """Returns what can never move, by reason and kind.

    Columns: `left_out` and `kind` (index), `storages`, `size_bytes`, `peak_bytes`, as in
    `kinds_table`.
    """
    storages = storages_table(profile)
    return _grouped(storages[storages["left_out"] != ""], ["left_out", "kind"])


def _grouped(storages: pd.DataFrame, by: list[str], more: Sequence[str] = ()) -> pd.DataFrame:
    """How many storages, and bytes of them, by those columns, the heaviest at the peak first."""
    peak_bytes = storages["size_bytes"].where(storages["at_peak"], 0)
    columns = [*by, "storages", "size_bytes", "peak_bytes", *more]
    table = storages.assign(storages=1, peak_bytes=peak_bytes)[columns]
    return table.groupby(by).sum().sort_values("peak_bytes", ascending=False)


def memory_table(source: Profile | Plan) -> pd.DataFrame:
    """Returns the memory of one step, one row per slot.

    Columns: `slot` (index), `anchor`, `start_us` (with nothing moved), `duration_us`,
    `without_bytes` (resident without a plan) and, for a plan, `with_bytes` (under it) and
    `recompute_us` (of the duration: ops that are run again).
    """
    durations_us = [slot.duration_us for slot in source.slots]
    table = pd.DataFrame(
        {
            "anchor": [slot.anchor for slot in source.slots],
            "start_us": list(accumulate(durations_us[:-1], initial=0.0)),
            "duration_us": durations_us,
        }
    )
    table.index.name = "slot"
    if isinstance(source, Profile):
        table["without_bytes"] = [slot.resident_bytes for slot in slot_memory(source)]
    else:
        table["without_bytes"] = list(unplanned_bytes(source))
        table["with_bytes"] = list(planned_bytes(source))
        table["recompute_us"] = [slot.recompute_us for slot in source.slots]
    return table


def swaps_table(plan: Plan) -> pd.DataFrame:
    """Returns one row per swap, in order of swap-out.

    Columns: `name`, `kind`, `module`, `size_bytes`, the anchors `swap_out`, `release`, `swap_in`
    and `await`, each with its module first, and the simulated slacks `out_slack_us` and
    `in_slack_us`: how long before compute asks for it the copy to the host, or back, is over. Below
    zero, compute waits. A clean swap copies nothing to the host: its `out_slack_us` is not a
    number. `engine` is what carries it.
    """
    rows = [
        {
            "name": moved.storage.name,
            "kind": moved.storage.kind.value,
            "module": moved.storage.module,
            "size_bytes": moved.storage.size_bytes,
            "swap_out": anchor_text(plan, moved.swap.swap_out_slot),
            "release": anchor_text(plan, moved.swap.release_slot),
            "swap_in": anchor_text(plan, moved.swap.swap_in_slot),
            "await": anchor_text(plan, moved.swap.await_slot),
            "out_slack_us": math.nan if moved.out_slack_us is None else moved.out_slack_us,
            "in_slack_us": moved.in_slack_us,
            "engine": moved.swap.engine.value,
        }
        for moved in simulated_step(plan).swaps
    ]
    anchors = ["swap_out", "release", "swap_in", "await"]
    slacks = ["out_slack_us", "in_slack_us"]
    columns = ["name", "kind", "module", "size_bytes", *anchors, *slacks, "engine"]
    return pd.DataFrame(rows, columns=columns)


def rebuilds_table(plan: Plan) -> pd.DataFrame:
    """Returns one row per storage that is dropped, in order of rebuilding.

    Columns: `rebuild` (which one, from 0: storages of one are filled together), `name`, `kind`,
    `module`, `size_bytes`, the anchors `dropped` and `rebuilt`, each with its module first, `ops`
    (what is run again) and `recompute_us` (what that takes, for all storages of the rebuild).
    """
    rows = [
        {
            "rebuild": n,
            "name": storage.name,
            "kind": storage.kind.value,
            "module": storage.module,
            "size_bytes": storage.size_bytes,
            "dropped": anchor_text(plan, drop.slot),
            "rebuilt": anchor_text(plan, rebuild.slot),
            "ops": ops_text(rebuild),
            "recompute_us": rebuild.recompute_us,
        }
        for n, rebuild in enumerate(plan.rebuilds)
        for drop in rebuild.drops
        for storage in (plan.storage(drop.storage),)
    ]
    columns = ["rebuild", "name", "kind", "module", "size_bytes", "dropped", "rebuilt"]
    return pd.DataFrame(rows, columns=[*columns, "ops", "recompute_us"])


def waits_table(step: SimulatedStep) -> pd.DataFrame:
    """Returns one row per slot whose anchor makes compute wait, in order.

    Columns: `slot` (index), `anchor`, `stall_us` (simulated), `waits_for`: the names of the
    storages whose copies are late there, those to the host as `out NAME`, those back as `in NAME`.
    """
    late: dict[int, list[str]] = defaultdict(list)
    for moved in step.swaps:
        if moved.out_slack_us is not None and moved.out_slack_us < 0:
            late[moved.swap.release_slot].append(f"out {moved.storage.name}")
        if moved.in_slack_us < 0:
            late[moved.swap.await_slot].append(f"in {moved.storage.name}")
    rows = [
        (t, step.plan.slots[t].anchor, stall_us, tuple(late[t]))
        for t, stall_us in enumerate(step.timeline.stall_us)
        if stall_us > 0
    ]
    columns = ["slot", "anchor", "stall_us", "waits_for"]
    return pd.DataFrame(rows, columns=columns).set_index("slot")


def slot_times_table(plan: Plan, measured: Sequence[Timeline]) -> pd.DataFrame:
    """Returns one row per slot, in order, as it was simulated and as it was measured.

    Columns: `slot` (index), `anchor`; when the slot's ops start, counted from the begin of the
    step, and how long compute stands still at its anchor before: simulated, and measured in one
    step at least. Of several steps the measured start is the median; the measured stall is the time
    up to there from the median arrival at the anchor, so no slot ends before it begins. It holds
    what the runtime itself takes at the anchor, too.
    """
    simulated = simulate_plan(plan)
    starts_us = _medians([timeline.start_us for timeline in measured])
    arrivals_us = _medians(
        [tuple(map(sub, timeline.start_us, timeline.stall_us)) for timeline in measured]
    )
    return pd.DataFrame(
        {
            "anchor": [slot.anchor for slot in plan.slots],
            "simulated_start_us": simulated.start_us,
            "measured_start_us": starts_us,
            "simulated_stall_us": simulated.stall_us,
            "measured_stall_us": list(map(sub, starts_us, arrivals_us)),
        }
    ).rename_axis("slot")


def _medians(steps: Sequence[Sequence[float]]) -> list[float]:
    return [median(times) for times in zip(*steps, strict=True)]
