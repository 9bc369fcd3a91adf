"""Whether the bytes that a plan's trips leave on the host have room there, each its own."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from planner.plan.host_memory import HostNeed, host_needs

if TYPE_CHECKING:
    from planner.plan.plan import Plan


def host_faults(plan: "Plan") -> Iterator[str]:
    """Yields what is wrong with the host pool of a plan whose trips are sound."""
    yield from _overlap_faults(plan)
    size_bytes = plan.host_sizes_bytes
    ends = (swap.host_offset_bytes + size_bytes[swap.storage] for swap in plan.swaps)
    used_bytes = max(ends, default=0)
    if plan.host_pool_bytes != used_bytes:
        yield f"host_pool_bytes is {plan.host_pool_bytes}, expected {used_bytes} from the swaps"
    if plan.host_budget_bytes is not None and used_bytes > plan.host_budget_bytes:
        yield (
            f"host_pool_bytes is {used_bytes}, expected at most {plan.host_budget_bytes} "
            "(host_budget_bytes)"
        )


def _overlap_faults(plan: "Plan") -> Iterator[str]:
    """No host byte may belong to two storages at once (see `planner.plan.host_memory`)."""
    together = host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots))
    of_need: dict[int, int] = {}
    for position, need in enumerate(together.of_trip):
        first = of_need.setdefault(need, position)
        offset, expected = plan.swaps[position].host_offset_bytes, plan.swaps[first]
        if offset != expected.host_offset_bytes:
            yield (
                f"swaps[{position}].host_offset_bytes is {offset}, expected "
                f"{expected.host_offset_bytes}: it shares the host copy of swaps[{first}]"
            )
    for one, other in _overlaps(plan, together.needs, of_need):
        offset = plan.swaps[of_need[other]].host_offset_bytes
        yield (
            f"swaps[{of_need[other]}].host_offset_bytes is {offset}, expected bytes that "
            f"swaps[{of_need[one]}] does not hold at the same time"
        )


def _overlaps(
    plan: "Plan", needs: Sequence[HostNeed], of_need: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Yields needs that hold the same bytes at the same time, up to the first two.

    Goes through the slots with what is held there in order of offset: until two overlap, what
    begins can overlap its neighbours in that order alone.
    """
    held: list[tuple[int, int, int]] = []
    ending: list[tuple[int, tuple[int, int, int]]] = []
    for first_slot, last_slot, need in _stretches(needs, len(plan.slots)):
        while ending and ending[0][0] < first_slot:
            del held[bisect_left(held, heappop(ending)[1])]
        offset = plan.swaps[of_need[need]].host_offset_bytes
        place = (offset, offset + needs[need].size_bytes, need)
        if place[0] == place[1]:
            continue
        at = bisect_left(held, place)
        for _, end, other in held[max(0, at - 1) : at]:
            if end > place[0]:
                yield other, need
                return
        for begin, _, other in held[at : at + 1]:
            if begin < place[1]:
                yield other, need
                return
        held.insert(at, place)
        heappush(ending, (last_slot, place))


def _stretches(needs: Sequence[HostNeed], slot_count: int) -> list[tuple[int, int, int]]:
    """First slot, last slot and index of each need, in this order; two of one that wraps."""
    stretches = []
    for number, need in enumerate(needs):
        if need.wraps:
            stretches.append((0, need.last_slot, number))
            stretches.append((need.first_slot, slot_count - 1, number))
        else:
            stretches.append((need.first_slot, need.last_slot, number))
    return sorted(stretches)
