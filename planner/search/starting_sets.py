"""Sets of gaps to start from, besides the ILP's own.

Fractions of the relaxation are never rounded up (research: 49% stall where the bound was 1%): they
only give an order in which gaps are taken until the set fits.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, combinations

import numpy as np

from planner.problem.problem import Problem

MAX_EXHAUSTIVE = 6
"""With at most this many gaps every set is tried."""
MAX_WHOLE = 500
"""With more gaps than this all of them together are not tried: slow, and never the best."""

NOT_USED = 1e-3
"""A relaxation that uses less of a gap than this does not use it."""

Key = Callable[[int], float]


def starting_sets(problem: Problem, shares: Sequence[float]) -> Iterator[frozenset[int]]:
    """Yields sets that fit the budget, each once, in a fixed order.

    Args:
        problem: The problem; all its whole gaps together must fit the budget.
        shares: x of the relaxation; empty if it was not solved.
    """
    orders = [sorted(problem.whole_set, key=key, reverse=True) for key in _keys(problem, shares)]
    used = [i for i in orders[0] if shares and shares[i] > NOT_USED]
    found: list[frozenset[int]] = []
    if problem.fits(used):
        found.append(without_needless(problem, used, copy_sources(problem, used)))
    for order in orders:
        prefix = problem.fewest_that_fit(order)
        found.append(without_needless(problem, prefix, copy_sources(problem, prefix)))
        found.append(without_needless(problem, prefix))
    # A dictionary keeps the order in which its keys were first seen.
    whole = [problem.whole_set] if len(problem.whole_gaps) <= MAX_WHOLE else []
    yield from dict.fromkeys([*found, *whole, *_small_sets(problem)])


def _small_sets(problem: Problem) -> Iterator[frozenset[int]]:
    """With few gaps, every set that fits."""
    if len(problem.whole_gaps) > MAX_EXHAUSTIVE:
        return
    for count in range(1, len(problem.whole_gaps)):
        for chosen in combinations(sorted(problem.whole_set), count):
            if problem.fits(chosen):
                yield frozenset(chosen)


def without_needless(
    problem: Problem, order: Sequence[int], needed: Collection[int] = ()
) -> frozenset[int]:
    """Returns what is left when gaps the budget does not need are dropped, the last ones first.

    Args:
        problem: The problem.
        order: A set of gaps that fits.
        needed: Those of it that are never dropped.
    """
    spare_bytes = problem.budget_bytes - np.array(problem.floor_bytes(order))
    kept = []
    for i in reversed(order):
        gap = problem.gaps[i]
        spares = [spare_bytes[part] for part in problem.open_slices(gap)]
        if i not in needed and min(int(spare.min()) for spare in spares) >= gap.size_bytes:
            for spare in spares:
                spare -= gap.size_bytes
        else:
            kept.append(i)
    return frozenset(kept)


def copy_sources(problem: Problem, chosen: Iterable[int]) -> frozenset[int]:
    """Returns those gaps of a set whose host copies make later ones of it clean.

    They may not be needed for their bytes: they use a lane that is idle then for one that is not
    idle later.
    """
    last_turns: dict[tuple[int, int], int] = {}
    chosen = tuple(chosen)
    for i in chosen:
        gap = problem.gaps[i]
        key = (gap.storage, gap.content)
        last_turns[key] = max(gap.turn, last_turns.get(key, gap.turn))
    return frozenset(
        i
        for i in chosen
        if problem.gaps[i].turn < last_turns[problem.gaps[i].storage, problem.gaps[i].content]
    )


def _keys(problem: Problem, shares: Sequence[float]) -> tuple[Key, ...]:
    gaps = problem.gaps
    over_us = [
        duration if held > problem.budget_bytes else 0.0
        for duration, held in zip(problem.durations_us, problem.resident_bytes, strict=True)
    ]
    over = list(accumulate((*over_us, *over_us), initial=0.0))

    def by_share(i: int) -> float:
        return shares[i]

    def by_relief(i: int) -> float:
        # TERAIO's benefit over cost, with cost the copies' time: time spent above the budget.
        return over[gaps[i].next_use_slot] - over[gaps[i].first_slot]

    known = (problem.free_us, problem.size_times_idle, by_relief)
    return (by_share, *known) if shares else known
