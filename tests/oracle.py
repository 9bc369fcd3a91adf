"""The least stall any plan can reach, found exactly in two ways, for hand-sized profiles.

`tests.oracle_ilp` holds a time-indexed integer program; `least_stall_by_search` here tries every
choice of anchors with `tests.reference`, and knows the host budget too. Both start from `idles`:
where each storage can be away, by the rules of the plan file. Neither shares code with the planner.
"""

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

from profiles.profile import Link, Profile
from tests.reference import Trip, resident_bytes, simulate


class Idle(NamedTuple):
    """A storage that nothing touches in slots first..until - 1."""

    storage: int
    size_bytes: int
    first: int
    until: int


def idles(profile: Profile) -> list[Idle]:
    """Every stretch in which a storage can be away."""
    found = []
    for s in profile.storages:
        if s.left_out is not None or s.shown_at is None or s.size_bytes == 0:
            continue
        slots = [-1] if s.allocated_op is None else []
        slots += [profile.ops[use.op].slot for use in s.uses]
        slots += [len(profile.slots) - 1] if s.released_op is None else []
        for p, q in pairwise(slots):
            first = max(p + 1, s.shown_at)
            if first < q:
                found.append(Idle(s.id, s.size_bytes, first, q))
    return found


def smallest_budget_bytes(profile: Profile) -> int:
    """What is resident when everything is away whenever it can be."""
    away = idles(profile)
    return max(
        resident_bytes(profile, t) - sum(i.size_bytes for i in away if i.first <= t < i.until)
        for t in range(len(profile.slots))
    )


def least_stall_by_search(
    profile: Profile, budget_bytes: int, host_budget_bytes: int | None = None
) -> float | None:
    """The least stall over every set of swaps and every choice of their anchors.

    Returns:
        Microseconds, or None if no choice meets the budgets.
    """
    return _Search(profile, budget_bytes, host_budget_bytes).least_stall_us()


class _Search:
    """Branch and bound, gap by gap.

    One more swap never makes any event earlier (every time is a maximum of sums), so the stall of
    the swaps chosen so far bounds the stall of every choice that contains them. Nor does it ever
    need fewer host bytes.
    """

    def __init__(self, profile: Profile, budget_bytes: int, host_budget_bytes: int | None) -> None:
        self.idles = sorted(idles(profile), key=lambda idle: -idle.size_bytes)
        self.slots_us = [slot.duration_us for slot in profile.slots]
        self.sizes = {s.id: s.size_bytes for s in profile.storages}
        self.link: Link = profile.link
        self.over = [resident_bytes(profile, t) - budget_bytes for t in range(len(profile.slots))]
        self.host_budget_bytes = host_budget_bytes
        self.best_us: float | None = None

    def least_stall_us(self) -> float | None:
        self._extend((), 0, self.over)
        return self.best_us

    def _extend(self, trips: tuple[Trip, ...], n: int, over: list[int]) -> None:
        stall_us = self._stall_us(trips)
        if self.best_us is not None and stall_us >= self.best_us:
            return
        if not self._host_fits(trips):
            return
        hopes = self.idles[n:]
        for t, bytes_over in enumerate(over):
            if bytes_over > sum(i.size_bytes for i in hopes if i.first <= t < i.until):
                return
        if max(over) <= 0:
            self.best_us = stall_us
            return
        if not hopes:
            return
        self._extend(trips, n + 1, over)
        for trip in self._choices(hopes[0]):
            away = range(trip.release_slot, trip.swap_in_slot)
            less = [o - self.sizes[trip.storage] * (t in away) for t, o in enumerate(over)]
            self._extend((*trips, trip), n + 1, less)

    def _choices(self, idle: Idle) -> list[Trip]:
        # An await before the next use can only wait longer; it pays by freeing host bytes alone.
        slots = range(idle.first, idle.until + 1)
        awaits = [idle.until] if self.host_budget_bytes is None else slots
        return [
            Trip(idle.storage, out, release, swap_in, awaited)
            for awaited in awaits
            for swap_in in slots
            for release in range(idle.first, swap_in)
            for out in range(idle.first, release + 1)
            if swap_in <= awaited
        ]

    def _stall_us(self, trips: Sequence[Trip]) -> float:
        # Of swap-outs issued at one anchor, first the one released first: any other order delays
        # that release and makes no other one earlier.
        in_order = sorted(trips, key=lambda trip: (trip.swap_out_slot, trip.release_slot))
        return sum(simulate(self.slots_us, self.sizes, in_order, self.link).stall_us)

    def _host_fits(self, trips: Sequence[Trip]) -> bool:
        if self.host_budget_bytes is None:
            return True
        # Piled up in the order of some best layout's offsets, they stand as low or lower.
        return any(
            self._pool_bytes(order) <= self.host_budget_bytes for order in permutations(trips)
        )

    def _pool_bytes(self, trips: Sequence[Trip]) -> int:
        tops: list[tuple[Trip, int]] = []
        for trip in trips:
            below = [
                top
                for other, top in tops
                if other.swap_out_slot <= trip.await_slot and trip.swap_out_slot <= other.await_slot
            ]
            tops.append((trip, max(below, default=0) + self.sizes[trip.storage]))
        return max((top for _, top in tops), default=0)
