"""One gap used, with the anchors of its swap, and the memory that such swaps need together."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from planner.plan.device_memory import Absence, resident_bytes
from planner.plan.host_memory import (
    HostNeeds,
    host_needs,
    host_offsets,
    peak_need_bytes,
    pool_bytes,
)
from planner.problem.problem import Problem


class TimedSwap(NamedTuple):
    """One gap used, by its index in the problem: the anchors of its swap (see `SwapAnchors`).

    They have swap_out <= release < swap_in <= await and count as the gap's do, on past the end of
    the step. Our own scheduler awaits at the gap's end; some published heuristics wait earlier.
    """

    gap: int
    storage: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    await_slot: int
    clean: bool = False


def whole_swap(problem: Problem, i: int) -> TimedSwap:
    """Returns the swap that keeps a gap's bytes away from end to end, with a copy of its own."""
    begin, end = problem.gaps[i].first_slot, problem.gaps[i].next_use_slot
    return TimedSwap(i, problem.gaps[i].storage, begin, begin, end, end)


def held_bytes(problem: Problem, swaps: Iterable[TimedSwap]) -> tuple[int, ...]:
    """Returns the device bytes resident in each slot: program order, whatever the clock."""
    count, gaps = problem.slot_count, problem.gaps
    away = (
        Absence(swap.release_slot % count, swap.swap_in_slot % count, gaps[swap.gap].size_bytes)
        for swap in swaps
    )
    return resident_bytes(problem.resident_bytes, away)


def swap_offsets(
    problem: Problem, chosen: Collection[int], swaps: Sequence[TimedSwap]
) -> tuple[int, ...]:
    """Returns an offset in the host pool for each swap."""
    found = host_needs(swaps, problem.host_sizes_bytes, problem.slot_count)
    layouts = _layouts(problem, chosen, swaps, found)
    smallest = min(layouts, key=lambda layout: pool_bytes(found.needs, layout))
    return tuple(smallest[need] for need in found.of_swap)


def fits_host(problem: Problem, chosen: Collection[int], swaps: Sequence[TimedSwap]) -> bool:
    """Whether the host pool can hold these swaps."""
    if problem.host_budget_bytes is None:
        return True
    found = host_needs(swaps, problem.host_sizes_bytes, problem.slot_count)
    if peak_need_bytes(found.needs) > problem.host_budget_bytes:
        return False
    return any(
        pool_bytes(found.needs, layout) <= problem.host_budget_bytes
        for layout in _layouts(problem, chosen, swaps, found)
    )


def _layouts(
    problem: Problem, chosen: Collection[int], swaps: Sequence[TimedSwap], found: HostNeeds
) -> Iterator[Sequence[int]]:
    """An offset for each need of some swaps, in one way or two.

    Laid out as they are; and, unless no layout is smaller or some share a copy, as the whole gaps
    they were chosen from, because a set chosen for its layout must keep it.
    """
    offsets = host_offsets(found.needs)
    yield offsets
    is_tight = pool_bytes(found.needs, offsets) == peak_need_bytes(found.needs)
    if is_tight or any(swap.clean for swap in swaps):
        return
    whole = [whole_swap(problem, i) for i in sorted(chosen)]
    whole_needs = host_needs(whole, problem.host_sizes_bytes, problem.slot_count)
    whole_offsets = host_offsets(whole_needs.needs)
    of_gap = {swap.gap: need for swap, need in zip(whole, whole_needs.of_swap, strict=True)}
    as_chosen = [0] * len(offsets)
    for swap, need in zip(swaps, found.of_swap, strict=True):
        as_chosen[need] = whole_offsets[of_gap[swap.gap]]
    yield as_chosen
