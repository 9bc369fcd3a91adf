"""Where the bytes of trips wait in the host pool."""

from collections.abc import Collection, Iterable, Sequence

from planner.draft import Trip
from planner.host_pool import HostNeed, host_offsets, peak_need_bytes, pool_bytes
from planner.problem import Problem


def trip_offsets(
    problem: Problem, chosen: Collection[int], trips: Sequence[Trip]
) -> tuple[int, ...]:
    """Returns an offset for each trip.

    Laid out as they are; or, if that takes no more bytes, as the whole gaps they were chosen from,
    because a set chosen for its layout must keep it.
    """
    needs = trip_needs(problem, trips)
    offsets = host_offsets(needs)
    if pool_bytes(needs, offsets) == peak_need_bytes(needs):
        return offsets
    order = sorted(chosen)
    of_gap = dict(zip(order, host_offsets(whole_needs(problem, order)), strict=True))
    as_chosen = tuple(of_gap[trip.gap] for trip in trips)
    return min(offsets, as_chosen, key=lambda layout: pool_bytes(needs, layout))


def fits_host(problem: Problem, chosen: Collection[int], trips: Sequence[Trip]) -> bool:
    """Whether the host pool can hold these trips."""
    if problem.host_budget_bytes is None:
        return True
    needs = trip_needs(problem, trips)
    if peak_need_bytes(needs) > problem.host_budget_bytes:
        return False
    layout = trip_offsets(problem, chosen, trips)
    return pool_bytes(needs, layout) <= problem.host_budget_bytes


def whole_trips_pool_bytes(problem: Problem, chosen: Iterable[int]) -> int:
    """Returns the host pool that whole trips of a chosen set take."""
    needs = whole_needs(problem, sorted(chosen))
    return pool_bytes(needs, host_offsets(needs))


def trip_needs(problem: Problem, trips: Iterable[Trip]) -> list[HostNeed]:
    """Returns what trips occupy: from swap-out to await."""
    return [
        HostNeed(
            trip.swap_out_slot,
            problem.gaps[trip.gap].next_use_slot,
            problem.gaps[trip.gap].size_bytes,
        )
        for trip in trips
    ]


def whole_needs(problem: Problem, order: Iterable[int]) -> list[HostNeed]:
    """Returns what trips would occupy that last from the beginning of their gaps."""
    gaps = (problem.gaps[i] for i in order)
    return [HostNeed(gap.first_slot, gap.next_use_slot, gap.size_bytes) for gap in gaps]
