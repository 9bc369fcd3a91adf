"""In what two profiles differ, as tables."""

from collections import Counter
from enum import StrEnum

import pandas as pd

from planner.report.plan_diff import SHORT_DIGEST, Figure, Unit, compared, figures_beside
from planner.report.tables import kinds_table, memory_table
from planner.report.text import link_text, sharing_text, workload_text
from profiles.schema.profile import Profile, Storage


class Differs(StrEnum):
    """How a storage of one profile differs from that of the same name in the other."""

    ONLY_A = "only in A"
    ONLY_B = "only in B"
    BYTES = "other bytes"
    KIND = "other kind"
    USES = "other uses"
    LIFETIME = "other lifetime"
    LEFT_OUT = "left out of one"


def profile_figures_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns the figures of two profiles side by side; columns as in `figures_beside`."""
    return figures_beside(_figures(one), _figures(other))


def profile_conditions_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns what two profiles were recorded from and on.

    Columns: `condition` (index), `a`, `b` (as people read them), `same`.
    """
    return compared(_conditions(one), _conditions(other))


def kinds_side_by_side_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns storages by kind in two profiles.

    Columns: `kind` (index), and `a_` and `b_` of `storages`, `size_bytes` (all of the step
    together) and `peak_bytes` (allocated when the most bytes are).
    """
    columns = ["storages", "size_bytes", "peak_bytes"]
    sides = [
        kinds_table(profile)[columns].add_prefix(prefix)
        for profile, prefix in ((one, "a_"), (other, "b_"))
    ]
    both = pd.concat(sides, axis=1).fillna(0).astype("int64")
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
        differs = _differs(a, b)
        if differs:
            rows.append(
                {
                    "name": name,
                    "kind": _known(a, b).kind.value,
                    "a_bytes": a.size_bytes if a else 0,
                    "b_bytes": b.size_bytes if b else 0,
                    "differs": ", ".join(differs),
                }
            )
    columns = ["name", "kind", "a_bytes", "b_bytes", "differs"]
    table = pd.DataFrame(rows, columns=columns).set_index("name")
    heaviest = table[["a_bytes", "b_bytes"]].max(axis=1).sort_values(ascending=False, kind="stable")
    return table.loc[heaviest.index]


def op_times_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns the time of each operator, all its ops of a step together, the largest change first.

    Columns: `op` (index), `a_ops`, `b_ops`, `a_us`, `b_us`, `change_us` (from A to B).
    """
    sides = []
    for profile, prefix in ((one, "a_"), (other, "b_")):
        ops = pd.DataFrame(
            {
                "op": [op.name for op in profile.ops],
                "ops": 1,
                "us": [op.duration_us for op in profile.ops],
            }
        )
        sides.append(ops.groupby("op").sum().add_prefix(prefix))
    table = pd.concat(sides, axis=1).fillna(0)
    table = table.astype({"a_ops": "int64", "b_ops": "int64"})
    table["change_us"] = table["b_us"] - table["a_us"]
    largest = table["change_us"].abs().sort_values(ascending=False, kind="stable")
    return table.loc[largest.index, ["a_ops", "b_ops", "a_us", "b_us", "change_us"]]


def anchors_that_differ_table(one: Profile, other: Profile) -> pd.DataFrame:
    """Returns the anchors that only one of two profiles has, in its order.

    Columns: `anchor`, `only_in` (`A` or `B`), `slot` (there).
    """
    rows = [
        {"anchor": anchor, "only_in": letter, "slot": slot}
        for letter, here, there in (("A", one, other), ("B", other, one))
        for slot, anchor in _only_here(here, there)
    ]
    return pd.DataFrame(rows, columns=["anchor", "only_in", "slot"])


def first_other_slot(one: Profile, other: Profile) -> int | None:
    """Returns the first slot with another anchor, or None if all are the same."""
    pairs = zip(one.slots, other.slots, strict=False)
    for slot, (a, b) in enumerate(pairs):
        if a.anchor != b.anchor:
            return slot
    shorter = min(len(one.slots), len(other.slots))
    return None if len(one.slots) == len(other.slots) else shorter


def _figures(profile: Profile) -> list[Figure]:
    storages, how = profile.storages, profile.times.value
    peak_bytes = int(memory_table(profile)["without_bytes"].max())
    all_bytes = sum(storage.size_bytes for storage in storages)
    left_out_bytes = sum(storage.size_bytes for storage in storages if storage.left_out)
    return [
        Figure("peak", peak_bytes, Unit.BYTES, how),
        Figure("step time", profile.step_us, Unit.US, how),
        Figure("ops", len(profile.ops), Unit.COUNT, how),
        Figure("anchors", len(profile.slots), Unit.COUNT, how),
        Figure("storages", len(storages), Unit.COUNT, how),
        Figure("bytes of storages", all_bytes, Unit.BYTES, how),
        Figure("of them left out", left_out_bytes, Unit.BYTES, how),
    ]


def _conditions(profile: Profile) -> dict[str, str]:
    versions = profile.versions
    return {
        "workload": workload_text(profile),
        "seed": str(profile.workload.seed),
        "model": profile.model_fingerprint[:SHORT_DIGEST],
        "device": f"{profile.device.kind}: {profile.device.name}",
        "compute threads": str(profile.device.compute_threads),
        "link": link_text(profile.link),
        "workers share": sharing_text(profile.sharing),
        "kind of times": profile.times.value,
        "slot times": profile.slot_times.value,
        "steps timed": str(profile.timed_steps),
        "swapplan": versions.swapplan,
        "torch": versions.torch,
        "python": versions.python,
    }


def _known(one: Storage | None, other: Storage | None) -> Storage:
    found = one or other
    assert found is not None
    return found


def _differs(one: Storage | None, other: Storage | None) -> list[str]:
    if other is None:
        return [Differs.ONLY_A.value]
    if one is None:
        return [Differs.ONLY_B.value]
    found = {
        Differs.BYTES: one.size_bytes != other.size_bytes,
        Differs.KIND: one.kind is not other.kind,
        Differs.USES: [use.access for use in one.uses] != [use.access for use in other.uses],
        Differs.LIFETIME: _lifetime(one) != _lifetime(other),
        Differs.LEFT_OUT: one.left_out is not other.left_out,
    }
    return [differs.value for differs, is_so in found.items() if is_so]


def _lifetime(storage: Storage) -> tuple[bool, bool]:
    """Whether it is there before the step, and after it."""
    return storage.allocated_op is None, storage.released_op is None


def _only_here(here: Profile, there: Profile) -> list[tuple[int, str]]:
    left = Counter(slot.anchor for slot in there.slots)
    found = []
    for number, slot in enumerate(here.slots):
        if left[slot.anchor]:
            left[slot.anchor] -= 1
        else:
            found.append((number, slot.anchor))
    return found
