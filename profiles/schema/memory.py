"""How many device bytes each slot of a step needs with nothing moved, from its profile alone.

Memory is a fact of program order. Nothing here knows about time.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from profiles.schema.profile import Profile, Storage, StorageKind


class Moment(NamedTuple):
    """A point of the event line (see [Note: the event line] in `profiles.schema.profile`).

    Attributes:
        slot: The slot.
        op: The op; None for the slot's anchor.
    """

    slot: int
    op: int | None


class SlotMemory(NamedTuple):
    """What one slot needs with nothing swapped.

    Attributes:
        resident_bytes: Most bytes allocated at its anchor or at any of its ops, and what the slot
            needs beyond storages.
        peak_op: The first op that needs that much; empty if none needs more than the anchor finds.
    """

    resident_bytes: int
    peak_op: str


def slot_memory(profile: Profile) -> tuple[SlotMemory, ...]:
    """Returns what each slot needs with nothing swapped."""
    at_ops, at_anchors = bytes_at_ops(profile), bytes_at_anchors(profile)
    return tuple(
        SlotMemory(
            (at_anchors[t] if op is None else at_ops[op]) + slot.overhead_bytes,
            "" if op is None else profile.ops[op].name,
        )
        for (t, op), slot in zip(neediest_moments(profile), profile.slots, strict=True)
    )


def neediest_moments(profile: Profile) -> tuple[Moment, ...]:
    """Returns where each slot needs the most: the first such op, or else its anchor."""
    at_ops = bytes_at_ops(profile)
    most_bytes = list(bytes_at_anchors(profile))
    moments = [Moment(t, None) for t in range(len(profile.slots))]
    for k, op in enumerate(profile.ops):
        t = op.slot
        if at_ops[k] > most_bytes[t] or (at_ops[k] == most_bytes[t] and moments[t].op is None):
            most_bytes[t], moments[t] = at_ops[k], Moment(t, k)
    return tuple(moments)


def alive_at(profile: Profile, moment: Moment) -> tuple[Storage, ...]:
    """Returns the storages that an op or an anchor finds allocated."""
    if moment.op is None:
        return tuple(s for s in profile.storages if s.is_alive_at_anchor(moment.slot))
    op = moment.op
    return tuple(s for s in profile.storages if s.is_alive_at_op(op))


def ops_before_slots(profile: Profile) -> tuple[int, ...]:
    """Returns, for each slot, how many ops run before its anchor."""
    counts = [0] * (len(profile.slots) + 1)
    for op in profile.ops:
        counts[op.slot + 1] += 1
    return tuple(accumulate(counts))[:-1]


def lifetime(storage: Storage, op_count: int) -> tuple[int, int]:
    """Returns the first and the last op of a step that find a storage allocated."""
    first = 0 if storage.allocated_op is None else storage.allocated_op
    last = op_count - 1 if storage.released_op is None else storage.released_op
    return first, last


def bytes_at_ops(profile: Profile, kind: StorageKind | None = None) -> tuple[int, ...]:
    """Returns the bytes allocated at each op: its results as well as its arguments.

    Args:
        profile: The step.
        kind: What storages to count; all if None.
    """
    change = [0] * (len(profile.ops) + 1)
    for storage in _of_kind(profile, kind):
        first, last = lifetime(storage, len(profile.ops))
        change[first] += storage.size_bytes
        change[last + 1] -= storage.size_bytes
    return tuple(accumulate(change))[:-1]


def bytes_at_anchors(profile: Profile, kind: StorageKind | None = None) -> tuple[int, ...]:
    """Returns the bytes that the anchor of each slot finds allocated; see `bytes_at_ops`."""
    change = [0] * (len(profile.slots) + 1)
    for storage in _of_kind(profile, kind):
        change[storage.allocated_slot] += storage.size_bytes
        change[storage.released_slot + 1] -= storage.size_bytes
    return tuple(accumulate(change))[:-1]


def _of_kind(profile: Profile, kind: StorageKind | None) -> Iterator[Storage]:
    return (storage for storage in profile.storages if kind is None or storage.kind is kind)
