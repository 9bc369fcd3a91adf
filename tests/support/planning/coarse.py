"""Library steps made small enough for an exact model: few storages, few slots, whole time units."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile, Storage, StorageKind
from tests.support.planning.oracle import Idle, idles
from tests.support.planning.toys import activation, toy


class _Kept(NamedTuple):
    """An activation that stays in the small step, and the one stretch in which it can be away."""

    storage: Storage
    idle: Idle
    last_slot: int


def coarsened(profile: Profile, *, gaps: int, units: int, bytes_per_us: float) -> Profile:
    """Keeps the activations that hold most bytes for longest and makes all else fixed.

    Slots between two events of what is kept become one. The step takes about `units` microseconds,
    and a byte of the small step takes one microsecond each way: both are whole numbers, as the
    time-indexed model needs them. Each storage can be away once, so no copy serves two swaps.

    Args:
        profile: A step.
        gaps: Activations to keep.
        units: Length of the small step in its microseconds; rounding may add or take a few.
        bytes_per_us: Rate of the link, for the large step.
    """
    unit_us = profile.step_us / units
    kept = _kept(profile, gaps)
    edges = _edges(profile, kept)
    group = {slot: g for g, (a, b) in enumerate(pairwise(edges)) for slot in range(a, b)}
    slots_us = [_duration_us(profile, a, b) for a, b in pairwise(edges)]
    sizes = [max(1, round(k.storage.size_bytes / bytes_per_us / unit_us)) for k in kept]
    storages = [
        activation(
            k.storage.name,
            size,
            *range(group[_shown_at(k) - 1], group[k.idle.first - 1] + 1),
            *range(group[k.idle.until], group[k.last_slot] + 1),
        )
        for k, size in zip(kept, sizes, strict=True)
    ]
    rest = _rest_bytes(profile, kept, edges)
    return toy(
        *[float(round(slot_us / unit_us)) for slot_us in slots_us],
        storages=storages,
        overheads_bytes=[*(round(b / bytes_per_us / unit_us) for b in rest), 0],
    )


def _shown_at(kept: _Kept) -> int:
    assert kept.storage.shown_at is not None
    return kept.storage.shown_at


def _kept(profile: Profile, gaps: int) -> list[_Kept]:
    elapsed_us = [0.0]
    for slot in profile.slots:
        elapsed_us.append(elapsed_us[-1] + slot.duration_us)

    def weight(idle: Idle) -> float:
        return idle.size_bytes * (elapsed_us[idle.until] - elapsed_us[idle.first])

    # Activations end with the step; what others wait for may lie in the next one.
    activations = [
        idle
        for idle in idles(profile)
        if profile.storages[idle.storage].kind is StorageKind.ACTIVATION
    ]
    longest = {idle.storage: idle for idle in sorted(activations, key=weight)}
    chosen = sorted(longest.values(), key=lambda idle: (-weight(idle), idle.storage))[:gaps]
    return [
        _Kept(
            profile.storages[idle.storage],
            idle,
            max(profile.ops[use.op].slot for use in profile.storages[idle.storage].uses),
        )
        for idle in sorted(chosen, key=lambda idle: idle.storage)
    ]


def _edges(profile: Profile, kept: Sequence[_Kept]) -> list[int]:
    """Where a slot of the small step begins; the last one is where the step ends."""
    inside = {
        edge for k in kept for edge in (_shown_at(k), k.idle.first, k.idle.until, k.last_slot + 1)
    }
    return sorted({0, len(profile.slots) - 1} | {e for e in inside if e < len(profile.slots) - 1})


def _duration_us(profile: Profile, first: int, until: int) -> float:
    return sum(slot.duration_us for slot in profile.slots[first:until])


def _rest_bytes(profile: Profile, kept: Sequence[_Kept], edges: Sequence[int]) -> list[int]:
    """What else each slot of the small step needs at most."""
    resident = [slot.resident_bytes for slot in slot_memory(profile)]
    rest = []
    for first, until in pairwise(edges):
        held = sum(
            k.storage.size_bytes for k in kept if _shown_at(k) - 1 < until and first <= k.last_slot
        )
        rest.append(max(0, max(resident[first:until]) - held))
    return rest
