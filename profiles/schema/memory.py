"""How many device bytes a step needs with nothing moved, from its profile alone.

Memory is a fact of program order. Nothing here knows about time.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from profiles.schema.profile import Profile, Storage, StorageKind


GRANULE_BYTES = 512
"""Accelerators' allocators round every block up to a multiple of this (kMinBlockSize, PyTorch
c10/core/AllocatorConfig.h)."""


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


def slot_memory(profile: "Profile") -> tuple[SlotMemory, ...]:
    """Returns what each slot needs with nothing swapped."""
    moments = neediest_moments(profile)
    return tuple(
        SlotMemory(size_bytes + slot.overhead_bytes, "" if op is None else profile.ops[op].name)
        for slot, (_, op), size_bytes in zip(
            profile.slots, moments, bytes_at(profile, moments), strict=True
        )
    )


def neediest_moments(profile: "Profile") -> tuple[Moment, ...]:
    """Returns where each slot needs the most: the first such op, or else its anchor."""
    at_anchors, at_ops = _bytes_at_anchors_and_ops(profile)
    most_bytes = list(at_anchors)
    moments = [Moment(t, None) for t in range(len(profile.slots))]
    for k, op in enumerate(profile.ops):
        t = op.slot
        if at_ops[k] > most_bytes[t] or (at_ops[k] == most_bytes[t] and moments[t].op is None):
            most_bytes[t], moments[t] = at_ops[k], Moment(t, k)
    return tuple(moments)


def peak_moment(profile: "Profile") -> Moment:
    """Returns where the step needs the most."""
    needs_bytes = [slot.resident_bytes for slot in slot_memory(profile)]
    return neediest_moments(profile)[needs_bytes.index(max(needs_bytes))]


def alive_at(profile: "Profile", moment: Moment) -> tuple["Storage", ...]:
    """Returns the storages that an op or an anchor finds allocated."""
    slot, op = moment
    lives = _anchor_lives(profile) if op is None else _op_lives(profile)
    place = slot if op is None else op
    return tuple(storage for storage, first, last in lives if first <= place <= last)


def ops_of_slots(profile: "Profile") -> tuple[range, ...]:
    """Returns the ops of each slot."""
    counts = [0] * len(profile.slots)
    for op in profile.ops:
        counts[op.slot] += 1
    return tuple(range(first, end) for first, end in pairwise(accumulate(counts, initial=0)))


def lifetime(storage: "Storage", op_count: int) -> tuple[int, int]:
    """Returns the first and the last op of a step that find a storage allocated."""
    first = 0 if storage.allocated_op is None else storage.allocated_op
    last = op_count - 1 if storage.released_op is None else storage.released_op
    return first, last


def bytes_at(
    profile: "Profile", moments: Iterable[Moment], kind: "StorageKind | None" = None
) -> tuple[int, ...]:
    """Returns the bytes of storages allocated at some moments, of one kind or of all.

    An op finds its results allocated as well as its arguments.
    """
    at_anchors, at_ops = _bytes_at_anchors_and_ops(profile, kind)
    return tuple(at_anchors[slot] if op is None else at_ops[op] for slot, op in moments)


def with_sizes(profile: "Profile", sizes_bytes: Iterable[int]) -> "Profile":
    """Returns a profile whose storages have other sizes, in order: to count those."""
    storages = tuple(
        storage.model_copy(update={"size_bytes": size_bytes})
        for storage, size_bytes in zip(profile.storages, sizes_bytes, strict=True)
    )
    return profile.model_copy(update={"storages": storages})


def largest_workspaces(calls: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Returns the most bytes that any call of an op takes, by name, of ops that take any."""
    most: dict[str, int] = {}
    for name, size_bytes in calls:
        if size_bytes > most.get(name, 0):
            most[name] = size_bytes
    return most


def _bytes_at_anchors_and_ops(
    profile: "Profile", kind: "StorageKind | None" = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (
        _bytes_alive(_anchor_lives(profile), len(profile.slots), kind),
        _bytes_alive(_op_lives(profile), len(profile.ops), kind),
    )


def _anchor_lives(profile: "Profile") -> Iterator[tuple["Storage", int, int]]:
    return ((s, s.allocated_slot, s.released_slot) for s in profile.storages)


def _op_lives(profile: "Profile") -> Iterator[tuple["Storage", int, int]]:
    return ((s, *lifetime(s, len(profile.ops))) for s in profile.storages)


def _bytes_alive(
    lives: Iterable[tuple["Storage", int, int]], count: int, kind: "StorageKind | None"
) -> tuple[int, ...]:
    """Bytes of storages that live from their first place of `count` to their last."""
    change = [0] * (count + 1)
    for storage, first, last in lives:
        if kind is None or storage.kind is kind:
            change[first] += storage.size_bytes
            change[last + 1] -= storage.size_bytes
    return tuple(accumulate(change))[:-1]
