"""Memory and time of a step, computed plainly and apart from the planner's own code.

Memory is read from the profile op by op; time needs durations, bytes, swaps and a link only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from profiles.schema.profile import Link, Profile, Storage


class BareSwap(NamedTuple):
    """A swap without its place on the host; a clean one copies nothing to the host."""

    storage: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    await_slot: int
    clean: bool = False


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
    slots_us: Sequence[float], sizes_bytes: Mapping[int, int], swaps: Sequence[BareSwap], link: Link
) -> Simulated:
    """Plays swaps, in the plan's order, against one FIFO lane each way, until steps are alike."""
    player = _Player(slots_us, sizes_bytes, swaps, link)
    before: list[float] | None = None
    while True:
        found, under_way = player.step()
        now = [*found.stall_us, *under_way]
        if before is not None and all(
            math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-6) for x, y in zip(before, now, strict=True)
        ):
            return found
        before = now


class _Player:
    """Plays one step after the other on one clock."""

    def __init__(
        self,
        slots_us: Sequence[float],
        sizes_bytes: Mapping[int, int],
        swaps: Sequence[BareSwap],
        link: Link,
    ) -> None:
        assert link.both_bytes_per_us is None, "lanes that slow each other are not played here"
        self.slots_us, self.sizes_bytes, self.swaps, self.link = slots_us, sizes_bytes, swaps, link
        self.d2h: dict[BareSwap, Copy] = {}
        self.h2d: dict[BareSwap, Copy] = {}
        self.now = self.d2h_free = self.h2d_free = 0.0

    def step(self) -> tuple[Simulated, list[float]]:
        """One step, in its own time, and how long the lanes stay busy after it."""
        begin = self.now
        run_us, stall_us = [], []
        outs: list[Copy] = []
        backs: list[Copy] = []
        for t, slot_us in enumerate(self.slots_us):
            arrival = self.now
            outs += [self.copy_out(x) for x in self.swaps if x.swap_out_slot == t and not x.clean]
            released = [x for x in self.swaps if x.release_slot == t and not x.clean]
            self.now = max([self.now, *(self.d2h[x].end_us for x in released if x in self.d2h)])
            taken = [swap for swap in self.swaps if swap.swap_in_slot == t]
            backs += [self.copy_back(x) for x in sorted(taken, key=self.slots_back)]
            awaited = [x for x in self.swaps if x.await_slot == t and x in self.h2d]
            self.now = max([self.now, *(self.h2d[x].end_us for x in awaited)])
            stall_us.append(self.now - arrival)
            run_us.append(self.now - begin)
            self.now += slot_us
        step = Simulated(
            tuple(run_us),
            tuple(stall_us),
            tuple(Copy(c.storage, c.start_us - begin, c.end_us - begin) for c in outs),
            tuple(Copy(c.storage, c.start_us - begin, c.end_us - begin) for c in backs),
        )
        return step, [max(0.0, free - self.now) for free in (self.d2h_free, self.h2d_free)]

    def slots_back(self, swap: BareSwap) -> tuple[int, int]:
        return ((swap.await_slot - swap.swap_in_slot) % len(self.slots_us), swap.storage)

    def copy_out(self, swap: BareSwap) -> Copy:
        start = max(self.now, self.d2h_free)
        bytes_us = self.sizes_bytes[swap.storage] / self.link.d2h_bytes_per_us
        self.d2h_free = start + (self.link.latency_us + bytes_us)
        self.d2h[swap] = Copy(swap.storage, start, self.d2h_free)
        return self.d2h[swap]

    def copy_back(self, swap: BareSwap) -> Copy:
        start = max(self.now, self.h2d_free)
        bytes_us = self.sizes_bytes[swap.storage] / self.link.h2d_bytes_per_us
        self.h2d_free = start + (self.link.latency_us + bytes_us)
        self.h2d[swap] = Copy(swap.storage, start, self.h2d_free)
        return self.h2d[swap]


def alive_at(profile: Profile, op: int) -> list[Storage]:
    """The storages allocated during an op."""
    return [
        s
        for s in profile.storages
        if (s.allocated_op is None or s.allocated_op <= op)
        and (s.released_op is None or op <= s.released_op)
    ]


def alive_across(profile: Profile, slot: int) -> list[Storage]:
    """The storages that a slot's anchor finds allocated."""
    return [s for s in profile.storages if s.allocated_slot <= slot <= s.released_slot]


def resident_bytes(profile: Profile, slot: int) -> int:
    """Most bytes needed at a slot's anchor or at any of its ops with nothing moved."""
    moments = [alive_at(profile, k) for k, op in enumerate(profile.ops) if op.slot == slot]
    held = max(sum(s.size_bytes for s in m) for m in [*moments, alive_across(profile, slot)])
    return held + profile.slots[slot].overhead_bytes
