"""Where the bytes of trips wait in the host pool."""

from collections.abc import Collection, Iterable, Sequence

from planner.plan.host_memory import (
    HostNeeds,
    host_needs,
    host_offsets,
    peak_need_bytes,
    pool_bytes,
)
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap


def swap_offsets(
    problem: Problem, chosen: Collection[int], trips: Sequence[TimedSwap]
) -> tuple[int, ...]:
    """Returns an offset for each trip.

    Laid out as they are; or, if that takes no more bytes and each has a copy of its own, as the
    whole gaps they were chosen from, because a set chosen for its layout must keep it.
    """
    found = swap_needs(problem, trips)
    offsets = host_offsets(found.needs)
    tight = pool_bytes(found.needs, offsets) == peak_need_bytes(found.needs)
    if tight or any(trip.clean for trip in trips):
        return tuple(offsets[need] for need in found.of_swap)
    order = sorted(chosen)
    whole = whole_needs(problem, order)
    whole_offsets = host_offsets(whole.needs)
    of_gap = {i: whole_offsets[need] for i, need in zip(order, whole.of_swap, strict=True)}
    of_need = dict(zip(found.of_swap, (of_gap[trip.gap] for trip in trips), strict=True))
    as_chosen = tuple(of_need[need] for need in range(len(found.needs)))
    best = min(offsets, as_chosen, key=lambda layout: pool_bytes(found.needs, layout))
    return tuple(best[need] for need in found.of_swap)


def fits_host(problem: Problem, chosen: Collection[int], trips: Sequence[TimedSwap]) -> bool:
    """Whether the host pool can hold these trips."""
    if problem.host_budget_bytes is None:
        return True
    found = swap_needs(problem, trips)
    if peak_need_bytes(found.needs) > problem.host_budget_bytes:
        return False
    offsets = swap_offsets(problem, chosen, trips)
    by_need = dict(zip(found.of_swap, offsets, strict=True))
    layout = [by_need[need] for need in range(len(found.needs))]
    return pool_bytes(found.needs, layout) <= problem.host_budget_bytes


def whole_gaps_pool_bytes(problem: Problem, chosen: Iterable[int]) -> int:
    """Returns the host pool that whole trips of a chosen set take, each with its own copy."""
    found = whole_needs(problem, sorted(chosen))
    return pool_bytes(found.needs, host_offsets(found.needs))


def whole_gaps_fit_host(problem: Problem, chosen: Iterable[int]) -> bool:
    """Whether the host pool can hold every chosen gap from end to end."""
    if problem.host_budget_bytes is None:
        return True
    return whole_gaps_pool_bytes(problem, chosen) <= problem.host_budget_bytes


def swap_needs(problem: Problem, trips: Sequence[TimedSwap]) -> HostNeeds:
    """Returns what trips occupy."""
    return host_needs(trips, problem.host_sizes_bytes, problem.slot_count)


def whole_needs(problem: Problem, order: Iterable[int]) -> HostNeeds:
    """Returns what trips would occupy that last from the beginning of their gaps."""
    return swap_needs(problem, [_whole_swap(i, problem.gaps[i]) for i in order])


def _whole_swap(i: int, gap: Gap) -> TimedSwap:
    begin, end = gap.first_slot, gap.next_use_slot
    return TimedSwap(i, gap.storage, begin, begin, end, end)
