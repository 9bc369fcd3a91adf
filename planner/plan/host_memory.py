"""Which bytes wait in the host pool when, and where: one slab, laid out from lifetimes.

A swap's bytes wait from its swap-out to its await. If clean swaps of the same storage follow, they
stay for those as well: one copy serves them all.

Nothing is allocated while training, so the whole layout is decided here. Offsets overlap only
where lifetimes do not.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from typing import NamedTuple

from planner.plan.plan import Plan
from planner.plan.schedule import SwapAnchors


class HostNeed(NamedTuple):
    """Bytes that are occupied in the host pool.

    Attributes:
        first_slot: The slot whose anchor issues the copy to the host.
        last_slot: The slot whose anchor awaits the last copy back. Included: at one anchor copies
            to the host are issued before awaits, so these bytes are free from the next anchor on.
            If it is below `first_slot`, they are occupied across the step boundary.
    """

    first_slot: int
    last_slot: int
    size_bytes: int

    @property
    def wraps(self) -> bool:
        """Whether the bytes are occupied across the step boundary."""
        return self.last_slot < self.first_slot

    def meets(self, other: "HostNeed") -> bool:
        """Whether both are occupied at some time."""
        if self.wraps and other.wraps:
            return True
        if self.wraps or other.wraps:
            around, inside = (self, other) if self.wraps else (other, self)
            return inside.last_slot >= around.first_slot or inside.first_slot <= around.last_slot
        return self.first_slot <= other.last_slot and other.first_slot <= self.last_slot


@dataclass(frozen=True)
class HostNeeds:
    """What swaps occupy together.

    Attributes:
        needs: Each stretch of bytes.
        of_swap: For each swap, the index of its need.
    """

    needs: tuple[HostNeed, ...]
    of_swap: tuple[int, ...]


def host_needs(
    swaps: Sequence[SwapAnchors], sizes_bytes: Mapping[int, int], slot_count: int
) -> HostNeeds:
    """Returns what all swaps of a step occupy; their slots may count on past its end.

    `sizes_bytes` are host bytes of each storage, by id.
    """
    by_storage: dict[int, list[int]] = {}
    for position in sorted(range(len(swaps)), key=lambda n: swaps[n].swap_out_slot % slot_count):
        by_storage.setdefault(swaps[position].storage, []).append(position)
    needs: list[HostNeed] = []
    of_swap = [0] * len(swaps)
    for storage, positions in by_storage.items():
        for group in _one_copy_each(swaps, positions):
            first, last = swaps[group[0]], swaps[group[-1]]
            ends = (first.swap_out_slot % slot_count, last.await_slot % slot_count)
            # Bytes that are never written, and so never copied again, stay for good.
            ends = (0, slot_count - 1) if first.clean else ends
            for position in group:
                of_swap[position] = len(needs)
            needs.append(HostNeed(*ends, sizes_bytes[storage]))
    return HostNeeds(tuple(needs), tuple(of_swap))


def _one_copy_each(swaps: Sequence[SwapAnchors], positions: Sequence[int]) -> list[list[int]]:
    """A storage's swaps, split before each that copies; the step repeats, so the first may come
    last."""
    copying = [n for n, position in enumerate(positions) if not swaps[position].clean]
    if not copying:
        return [list(positions)]
    groups: list[list[int]] = []
    for position in (*positions[copying[0] :], *positions[: copying[0]]):
        if not swaps[position].clean:
            groups.append([])
        groups[-1].append(position)
    return groups


def host_bytes(plan: Plan) -> tuple[int, ...]:
    """Returns the bytes of the host pool that are occupied in each slot.

    The pool itself can be larger, as its layout may leave holes.
    """
    needs = host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots)).needs
    return _bytes_by_slot(needs, len(plan.slots))


def peak_need_bytes(needs: Sequence[HostNeed]) -> int:
    """Returns the most bytes occupied at once: no layout needs a smaller pool."""
    slot_count = 1 + max((max(need.first_slot, need.last_slot) for need in needs), default=0)
    return max(_bytes_by_slot(needs, slot_count))


def _bytes_by_slot(needs: Sequence[HostNeed], slot_count: int) -> tuple[int, ...]:
    change = [0] * (slot_count + 1)
    for need in needs:
        change[need.first_slot] += need.size_bytes
        change[need.last_slot + 1] -= need.size_bytes
        if need.wraps:
            change[0] += need.size_bytes
    return tuple(accumulate(change[:-1]))


def pool_bytes(needs: Sequence[HostNeed], offsets: Sequence[int]) -> int:
    """Returns the size of the pool that holds this layout."""
    return max(
        (need.size_bytes + offset for need, offset in zip(needs, offsets, strict=True)), default=0
    )


def host_offsets(needs: Sequence[HostNeed]) -> tuple[int, ...]:
    """Places every need; returns the offsets in the order given.

    Best of two greedy orders, largest first and longest-lived first, each need going to the lowest
    free offset. This is dynamic storage allocation, which is NP-hard; `peak_need_bytes` is its
    lower bound. Of 60 random layouts of 10 to 150 needs the pool was 1.1% above that bound on
    average; best fit, the smallest hole that is large enough, made one smaller and 13 larger.
    """

    def by_size(i: int) -> tuple[int, HostNeed, int]:
        return (-needs[i].size_bytes, needs[i], i)

    def by_life(i: int) -> tuple[bool, int, HostNeed, int]:
        return (not needs[i].wraps, needs[i].first_slot - needs[i].last_slot, needs[i], i)

    everything = range(len(needs))
    orders = (sorted(everything, key=by_size), sorted(everything, key=by_life))
    layouts = [_place_in_order(needs, order) for order in orders]
    return min(layouts, key=lambda offsets: pool_bytes(needs, offsets))


def _place_in_order(needs: Sequence[HostNeed], order: Sequence[int]) -> tuple[int, ...]:
    offsets = [0] * len(needs)
    for n, i in enumerate(order):
        size_bytes = needs[i].size_bytes
        beside = [
            (offsets[j], offsets[j] + needs[j].size_bytes)
            for j in order[:n]
            if needs[j].meets(needs[i])
        ]
        for begin, end in sorted(beside):
            if offsets[i] + size_bytes <= begin:
                break
            offsets[i] = max(offsets[i], end)
    return tuple(offsets)


def first_overlap(
    needs: Sequence[HostNeed], offsets: Sequence[int], slot_count: int
) -> tuple[int, int] | None:
    """Returns two needs that hold the same bytes at the same time, the later one last, if any do.

    Goes through the slots with what is held there in order of offset: until two overlap, what
    begins can overlap its neighbours in that order alone.
    """
    held: list[tuple[int, int, int]] = []
    ending: list[tuple[int, tuple[int, int, int]]] = []
    for first_slot, last_slot, i in _stretches(needs, slot_count):
        while ending and ending[0][0] < first_slot:
            del held[bisect_left(held, heappop(ending)[1])]
        begin, end = offsets[i], offsets[i] + needs[i].size_bytes
        if begin == end:
            continue
        at = bisect_left(held, (begin, end, i))
        for other_begin, other_end, other in held[max(0, at - 1) : at + 1]:
            if other_begin < end and begin < other_end:
                return other, i
        held.insert(at, (begin, end, i))
        heappush(ending, (last_slot, (begin, end, i)))
    return None


def _stretches(needs: Sequence[HostNeed], slot_count: int) -> list[tuple[int, int, int]]:
    """First slot, last slot and index of each need, in this order; two of one that wraps."""
    stretches = []
    for i, need in enumerate(needs):
        if need.wraps:
            stretches += [(0, need.last_slot, i), (need.first_slot, slot_count - 1, i)]
        else:
            stretches.append((need.first_slot, need.last_slot, i))
    return sorted(stretches)
