"""How many device bytes each slot of a step needs with nothing moved, from its profile alone.

Memory is a fact of program order. Nothing here knows about time.
"""

from itertools import accumulate
from typing import NamedTuple

from profiles.profile import Profile, Storage


class SlotMemory(NamedTuple):
    """What one slot needs with nothing swapped.

    Attributes:
        resident_bytes: Most bytes allocated at any of its ops; in a slot without ops, the bytes
            that live across it.
        peak_op: The first op that needs that much; empty in a slot without ops.
    """

    resident_bytes: int
    peak_op: str


def slot_memory(profile: Profile) -> tuple[SlotMemory, ...]:
    """Returns what each slot needs with nothing swapped."""
    at_op_bytes = _bytes_at_ops(profile)
    across_bytes = _bytes_across(profile)
    needs: list[SlotMemory | None] = [None] * len(profile.slots)
    for k, op in enumerate(profile.ops):
        need = needs[op.slot]
        if need is None or at_op_bytes[k] > need.resident_bytes:
            needs[op.slot] = SlotMemory(at_op_bytes[k], op.name)
    ops_before = ops_before_slots(profile)
    return tuple(
        _with_overhead(need or SlotMemory(across_bytes[ops_before[t]], ""), slot.overhead_bytes)
        for t, (need, slot) in enumerate(zip(needs, profile.slots, strict=True))
    )


def _with_overhead(need: SlotMemory, overhead_bytes: int) -> SlotMemory:
    return need._replace(resident_bytes=need.resident_bytes + overhead_bytes)


def ops_before_slots(profile: Profile) -> tuple[int, ...]:
    """Returns, for each slot, how many ops run before its anchor."""
    counts = [0] * (len(profile.slots) + 1)
    for op in profile.ops:
        counts[op.slot + 1] += 1
    return tuple(accumulate(counts))[:-1]


def _lifetime(storage: Storage, op_count: int) -> tuple[int, int]:
    """First and last op that find it allocated; -1 and `op_count` stand for outside the step."""
    first = -1 if storage.allocated_op is None else storage.allocated_op
    last = op_count if storage.released_op is None else storage.released_op
    return first, last


def _bytes_at_ops(profile: Profile) -> list[int]:
    """Bytes allocated at each op: its results are there already, its arguments are still there."""
    change = [0] * (len(profile.ops) + 2)
    for storage in profile.storages:
        first, last = _lifetime(storage, len(profile.ops))
        change[max(first, 0)] += storage.size_bytes
        change[last + 1] -= storage.size_bytes
    return list(accumulate(change))


def _bytes_across(profile: Profile) -> list[int]:
    """Bytes that live across the boundary before each op (and, last, across the step's end)."""
    change = [0] * (len(profile.ops) + 2)
    for storage in profile.storages:
        first, last = _lifetime(storage, len(profile.ops))
        change[first + 1] += storage.size_bytes
        change[last + 1] -= storage.size_bytes
    return list(accumulate(change))
