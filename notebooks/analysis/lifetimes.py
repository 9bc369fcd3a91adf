"""How long storages are on the device, and how much of that time anything uses them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import pandas as pd

from analysis.modules import storage_modules
from profiles.schema.profile import Access, Profile, Storage

COLUMNS = (
    "name",
    "kind",
    "module",
    "size_bytes",
    "uses",
    "born_us",
    "gone_us",
    "used_us",
    "idle_us",
    "longest_idle_us",
    "idle_byte_share",
)


@dataclass(frozen=True)
class _Span:
    """From one time of the step to another."""

    start_us: float
    end_us: float


def lifetimes_table(profile: Profile) -> pd.DataFrame:
    """Returns one row per storage.

    Columns: `id` (index), `name`, `kind`, `module` (the one that touches it first), `size_bytes`,
    `uses`, `born_us` and `gone_us` (when it is allocated and when it is freed; the edges of the
    step if that is outside), `used_us` (time of the ops that touch it), `idle_us` (the rest of its
    life), `longest_idle_us` (without a use; for one that lives from step to step, round the step
    boundary, too), `idle_byte_share` (its bytes times its idle time, as a share of the bytes times
    the lives of all).

    Times are those of the profile, with nothing moved.
    """
    spans = _op_spans(profile)
    rows = [_row(storage, spans, profile.step_us) for storage in profile.storages]
    table = pd.DataFrame(rows, columns=["id", *COLUMNS]).set_index("id")
    table["module"] = storage_modules(profile)
    lives_us = table["gone_us"] - table["born_us"]
    byte_us = float((table["size_bytes"] * lives_us).sum())
    table["idle_byte_share"] = table["size_bytes"] * table["idle_us"] / max(byte_us, 1e-9)
    return table


def idle_kinds_table(lifetimes: pd.DataFrame) -> pd.DataFrame:
    """Returns how much of what each kind holds lies idle, the most first.

    Columns: `kind` (index), `storages`, `size_bytes`, `held_byte_s` (bytes times seconds on the
    device), `idle_share` (the part of it in which no op uses them).

    Args:
        lifetimes: From `lifetimes_table`.
    """
    lives_us = lifetimes["gone_us"] - lifetimes["born_us"]
    by_kind = pd.DataFrame(
        {
            "kind": lifetimes["kind"],
            "storages": 1,
            "size_bytes": lifetimes["size_bytes"],
            "held_byte_s": lifetimes["size_bytes"] * lives_us / 1e6,
            "idle_byte_s": lifetimes["size_bytes"] * lifetimes["idle_us"] / 1e6,
        }
    )
    table = by_kind.groupby("kind").sum().sort_values("held_byte_s", ascending=False)
    table["idle_share"] = table.pop("idle_byte_s") / table["held_byte_s"].clip(lower=1e-15)
    return table


def uses_table(profile: Profile, ids: Iterable[int]) -> pd.DataFrame:
    """Returns one row per use of some storages, in the order of the ids given.

    Columns: `id`, `op` (the operator), `start_us`, `end_us`, `writes`.
    """
    spans = _op_spans(profile)
    rows = [
        {
            "id": id_,
            "op": profile.ops[use.op].name,
            "start_us": spans[use.op].start_us,
            "end_us": spans[use.op].end_us,
            "writes": use.access is Access.WRITE,
        }
        for id_ in ids
        for use in profile.storages[id_].uses
    ]
    return pd.DataFrame(rows, columns=["id", "op", "start_us", "end_us", "writes"])


def _row(storage: Storage, spans: Sequence[_Span], step_us: float) -> dict[str, object]:
    used = [spans[op] for op in sorted({use.op for use in storage.uses})]
    born_us = 0.0 if storage.allocated_op is None else _start_us(spans, storage.allocated_op)
    gone_us = step_us if storage.released_op is None else _end_us(spans, storage.released_op)
    # What only an anchor finds allocated takes no time.
    gone_us = max(born_us, gone_us)
    used_us = sum(span.end_us - span.start_us for span in used)
    return {
        "id": storage.id,
        "name": storage.name,
        "kind": storage.kind.value,
        "size_bytes": storage.size_bytes,
        "uses": len(used),
        "born_us": born_us,
        "gone_us": gone_us,
        "used_us": used_us,
        "idle_us": max(0.0, gone_us - born_us - used_us),
        "longest_idle_us": max(_idle_us(storage, used, born_us, gone_us)),
    }


def _start_us(spans: Sequence[_Span], op: int) -> float:
    return spans[op].start_us if op < len(spans) else _end_us(spans, op - 1)


def _end_us(spans: Sequence[_Span], op: int) -> float:
    return spans[op].end_us if op >= 0 else 0.0


def _idle_us(
    storage: Storage, used: Sequence[_Span], born_us: float, gone_us: float
) -> list[float]:
    """The stretches of a life without a use."""
    if not used:
        return [gone_us - born_us]
    between_us = [after.start_us - before.end_us for before, after in pairwise(used)]
    first_us, last_us = used[0].start_us - born_us, gone_us - used[-1].end_us
    if storage.lives_on:
        return [*between_us, first_us + last_us]
    return [*between_us, first_us, last_us]


def _op_spans(profile: Profile) -> list[_Span]:
    """When each op runs: in order, filling its slot in proportion to its own time."""
    own_us = [0.0] * len(profile.slots)
    counts = [0] * len(profile.slots)
    for op in profile.ops:
        own_us[op.slot] += op.duration_us
        counts[op.slot] += 1
    durations_us = [slot.duration_us for slot in profile.slots]
    starts_us = list(accumulate(durations_us, initial=0.0))
    spans = []
    done_us = [0.0] * len(profile.slots)
    for op in profile.ops:
        t = op.slot
        share = op.duration_us / own_us[t] if own_us[t] > 0 else 1 / counts[t]
        start_us = starts_us[t] + done_us[t]
        done_us[t] += share * durations_us[t]
        spans.append(_Span(start_us, starts_us[t] + done_us[t]))
    return spans
