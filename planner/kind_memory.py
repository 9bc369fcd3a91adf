"""What the memory of a step consists of, slot by slot."""

from collections.abc import Iterable
from itertools import accumulate

import pandas as pd

from profiles.profile import Profile, StorageKind
from profiles.slot_memory import Moment, bytes_at_anchors, bytes_at_ops, neediest_moments

OVERHEAD = "beyond storages"
"""Kernels' workspace, and what the allocator rounds up."""


def kind_memory_table(profile: Profile) -> pd.DataFrame:
    """Returns the resident bytes of each slot by kind, with nothing moved.

    Columns: `slot` (index), `start_us`, and one per kind that the step has, in the order of
    `StorageKind`, then `beyond storages`. Each is taken where the slot needs the most memory, so a
    row's bytes add up to what `planner.memory.slot_memory` says of the slot.
    """
    moments = neediest_moments(profile)
    table = pd.DataFrame(
        {
            kind.value: _bytes_at(profile, kind, moments)
            for kind in StorageKind
            if any(storage.kind is kind for storage in profile.storages)
        },
        index=pd.RangeIndex(len(profile.slots), name="slot"),
    )
    table[OVERHEAD] = [slot.overhead_bytes for slot in profile.slots]
    durations_us = [slot.duration_us for slot in profile.slots]
    table.insert(0, "start_us", list(accumulate(durations_us[:-1], initial=0.0)))
    return table


def _bytes_at(profile: Profile, kind: StorageKind, moments: Iterable[Moment]) -> list[int]:
    at_ops, at_anchors = bytes_at_ops(profile, kind), bytes_at_anchors(profile, kind)
    return [at_anchors[slot] if op is None else at_ops[op] for slot, op in moments]
