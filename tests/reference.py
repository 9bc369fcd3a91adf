"""Memory and time of a step, computed plainly and apart from the planner's own code.

Memory is read from the profile op by op; time needs durations, bytes, trips and a link only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from profiles.profile import Link, Profile, Storage


class Trip(NamedTuple):
    """A swap without its place on the host."""

    storage: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    await_slot: int


class Copy(NamedTuple):
    """One copy on a lane."""

    storage: int
    start_us: float
    end_us: float


@dataclass(frozen=True)
class Simulated:
    """When everything happens: per slot when its ops start and how long compute waited before."""

    run_us: tuple[float, ...]
    stall_us: tuple[float, ...]
    d2h: tuple[Copy, ...]
    h2d: tuple[Copy, ...]


def simulate(
    slots_us: Sequence[float], sizes_bytes: Mapping[int, int], trips: Sequence[Trip], link: Link
) -> Simulated:
    """Plays trips, in the plan's order, against one FIFO lane each way."""
    run_us, stall_us = [], []
    d2h: dict[Trip, Copy] = {}
    h2d: dict[Trip, Copy] = {}
    now = d2h_free = h2d_free = 0.0
    for t, slot_us in enumerate(slots_us):
        arrival = now
        for trip in trips:
            if trip.swap_out_slot == t:
                start = max(now, d2h_free)
                copy_us = link.latency_us + sizes_bytes[trip.storage] / link.d2h_bytes_per_us
                d2h_free = start + copy_us
                d2h[trip] = Copy(trip.storage, start, d2h_free)
        now = max([now, *(d2h[trip].end_us for trip in trips if trip.release_slot == t)])
        by_need = sorted(trips, key=lambda trip: (trip.await_slot, trip.swap_in_slot, trip.storage))
        for trip in by_need:
            if trip.swap_in_slot == t:
                start = max(now, h2d_free)
                copy_us = link.latency_us + sizes_bytes[trip.storage] / link.h2d_bytes_per_us
                h2d_free = start + copy_us
                h2d[trip] = Copy(trip.storage, start, h2d_free)
        now = max([now, *(h2d[trip].end_us for trip in trips if trip.await_slot == t)])
        stall_us.append(now - arrival)
        run_us.append(now)
        now += slot_us
    return Simulated(tuple(run_us), tuple(stall_us), tuple(d2h.values()), tuple(h2d.values()))


def alive_at(profile: Profile, op: int) -> list[Storage]:
    """The storages allocated during an op."""
    return [
        s
        for s in profile.storages
        if (s.allocated_op is None or s.allocated_op <= op)
        and (s.released_op is None or op <= s.released_op)
    ]


def alive_across(profile: Profile, slot: int) -> list[Storage]:
    """The storages that live both before and after a slot's anchor."""
    before = sum(op.slot < slot for op in profile.ops) - 1
    return [
        s
        for s in profile.storages
        if (s.allocated_op is None or s.allocated_op <= before)
        and (s.released_op is None or s.released_op > before)
    ]


def resident_bytes(profile: Profile, slot: int) -> int:
    """Most bytes needed at any op of a slot with nothing moved."""
    moments = [alive_at(profile, k) for k, op in enumerate(profile.ops) if op.slot == slot]
    held = max(sum(s.size_bytes for s in m) for m in moments or [alive_across(profile, slot)])
    return held + profile.slots[slot].overhead_bytes
