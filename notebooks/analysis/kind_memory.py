"""What the memory of a step consists of, kind by kind."""

from itertools import accumulate

import pandas as pd

from profiles.schema.memory import bytes_at, neediest_moments
from profiles.schema.profile import Profile, StorageKind

OVERHEAD = "beyond storages"
"""Kernels' workspace, and what the allocator rounds up."""


def kind_memory_table(profile: Profile) -> pd.DataFrame:
    """Returns the resident bytes of each slot by kind, with nothing moved.

    Columns: `slot` (index), `start_us`, and one per kind that the step has, in the order of
    `StorageKind`, then `beyond storages`. Each is taken where the slot needs the most memory, so a
    row's bytes add up to what `profiles.schema.memory.slot_memory` says of the slot.
    """
    moments = neediest_moments(profile)
    table = pd.DataFrame(
        {
            kind.value: bytes_at(profile, moments, kind)
            for kind in StorageKind
            if any(storage.kind is kind for storage in profile.storages)
        },
        index=pd.RangeIndex(len(profile.slots), name="slot"),
    )
    table[OVERHEAD] = [slot.overhead_bytes for slot in profile.slots]
    durations_us = [slot.duration_us for slot in profile.slots]
    table.insert(0, "start_us", list(accumulate(durations_us[:-1], initial=0.0)))
    return table
