"""Profiles and plans as pandas tables: to read, to plot, to work on in a notebook."""

import math
from itertools import accumulate

import pandas as pd

from planner.plan.device_memory import planned_bytes
from planner.plan.host_memory import host_bytes
from planner.plan.plan import Plan, Swap
from planner.plan.simulate import simulate_plan
from planner.report.simulated_swaps import trips
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
    sizes = storages["size_bytes"]
    by_kind = pd.DataFrame(
        {
            "kind": storages["kind"],
            "storages": 1,
            "size_bytes": sizes,
            "peak_bytes": sizes.where(storages["at_peak"], 0),
            "left_out_bytes": sizes.where(storages["left_out"] != "", 0),
        }
    )
    return by_kind.groupby("kind").sum().sort_values("peak_bytes", ascending=False)


def peak_overhead_bytes(profile: Profile) -> int:
    """Returns what the device needs beyond the storages' own bytes when it needs the most."""
    return profile.slots[peak_moment(profile).slot].overhead_bytes


def left_out_table(profile: Profile) -> pd.DataFrame:
    """Returns what can never move, by reason and kind.

    Columns: `left_out` and `kind` (index), `storages`, `size_bytes` (all of the step together),
    `peak_bytes` (allocated when the most bytes are).
    """
    storages = storages_table(profile)
    storages = storages[storages["left_out"] != ""]
    sizes = storages["size_bytes"]
    by_reason = pd.DataFrame(
        {
            "left_out": storages["left_out"],
            "kind": storages["kind"],
            "storages": 1,
            "size_bytes": sizes,
            "peak_bytes": sizes.where(storages["at_peak"], 0),
        }
    )
    return by_reason.groupby(["left_out", "kind"]).sum().sort_values("peak_bytes", ascending=False)


def memory_table(source: Profile | Plan) -> pd.DataFrame:
    """Returns the memory of one step, one row per slot.

    Columns: `slot` (index), `anchor`, `start_us` (with nothing moved), `duration_us`,
    `without_bytes` (resident with nothing swapped) and, for a plan, `with_bytes` (under it).
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
        table["without_bytes"] = [slot.resident_bytes for slot in source.slots]
        table["with_bytes"] = list(planned_bytes(source))
    return table


def planned_memory_table(plan: Plan) -> pd.DataFrame:
    """Returns the memory of one step under a plan, one row per slot, in simulated time.

    Columns: `slot` (index), `anchor`, `start_us` (simulated, stalls included), `without_bytes`
    (resident with nothing swapped), `with_bytes` (under the plan), `host_bytes` (waiting in the
    host pool).
    """
    table = memory_table(plan).drop(columns="duration_us")
    table["start_us"] = simulate_plan(plan).start_us
    table["host_bytes"] = list(host_bytes(plan))
    return table


def swaps_table(plan: Plan) -> pd.DataFrame:
    """Returns one row per swap, in order of swap-out.

    Columns: `name`, `kind`, `size_bytes`, the anchors `swap_out`, `release`, `swap_in` and
    `await`, and the simulated slacks `out_slack_us` and `in_slack_us`: how long before compute
    asks for it the copy to the host, or back, is over. Below zero, compute waits. A clean swap
    copies nothing to the host: its `out_slack_us` is not a number. `engine` is what carries it.
    """
    rows = [
        {
            "name": trip.storage.name,
            "kind": trip.storage.kind.value,
            "size_bytes": trip.storage.size_bytes,
            **_anchors(plan, trip.swap),
            "out_slack_us": math.nan if trip.out_slack_us is None else trip.out_slack_us,
            "in_slack_us": trip.in_slack_us,
            "engine": trip.swap.engine.value,
        }
        for trip in trips(plan, simulate_plan(plan))
    ]
    anchors = ["swap_out", "release", "swap_in", "await"]
    slacks = ["out_slack_us", "in_slack_us"]
    return pd.DataFrame(rows, columns=["name", "kind", "size_bytes", *anchors, *slacks, "engine"])


def _anchors(plan: Plan, swap: Swap) -> dict[str, str]:
    return {
        "swap_out": plan.slots[swap.swap_out_slot].anchor,
        "release": plan.slots[swap.release_slot].anchor,
        "swap_in": plan.slots[swap.swap_in_slot].anchor,
        "await": plan.slots[swap.await_slot].anchor,
    }
