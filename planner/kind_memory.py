"""What the memory of a step consists of, slot by slot."""

from itertools import accumulate

import pandas as pd

from planner.memory import ops_before_slots
from profiles.profile import Profile, Storage, StorageKind

OVERHEAD = "beyond storages"
"""Kernels' workspace, and what the allocator rounds up."""


def kind_memory_table(profile: Profile) -> pd.DataFrame:
    """Returns the resident bytes of each slot by kind, with nothing moved.

    Columns: `slot` (index), `start_us`, and one per kind that the step has, in the order of
    `StorageKind`, then `beyond storages`. Each is taken where the slot needs the most memory, so a
    row's bytes add up to what `planner.memory.slot_memory` says of the slot.
    """
    moments = _moments(profile)
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


def _moments(profile: Profile) -> list[float]:
    """The op at which each slot needs the most; halfway before the next op where it has none."""
    held_bytes = _held_bytes(profile.storages, len(profile.ops))
    moments = [before - 0.5 for before in ops_before_slots(profile)]
    for k, op in enumerate(profile.ops):
        if moments[op.slot] % 1 or held_bytes[k] > held_bytes[int(moments[op.slot])]:
            moments[op.slot] = k
    return moments


def _held_bytes(storages: tuple[Storage, ...], op_count: int) -> list[int]:
    change = [0] * (op_count + 1)
    for storage in storages:
        change[storage.allocated_op or 0] += storage.size_bytes
        if storage.released_op is not None:
            change[storage.released_op + 1] -= storage.size_bytes
    return list(accumulate(change))


def _bytes_at(profile: Profile, kind: StorageKind, moments: list[float]) -> list[int]:
    """Bytes of a kind at each moment.

    A moment k is at op k, which finds what it allocates and what is released after it; a moment
    k - 0.5 lies between two ops.
    """
    # Twice the moment is a whole number from -1, between the begin and the first op.
    change = [0] * (2 * len(profile.ops) + 2)
    for storage in profile.storages:
        if storage.kind is kind:
            first = -1 if storage.allocated_op is None else 2 * storage.allocated_op
            change[first + 1] += storage.size_bytes
            if storage.released_op is not None:
                change[2 * storage.released_op + 2] -= storage.size_bytes
    held_bytes = list(accumulate(change))
    return [held_bytes[int(2 * moment) + 1] for moment in moments]
