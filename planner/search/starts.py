"""Where the search starts, besides the ILP's own sets: sets of gaps, and published heuristics.

Fractions of the relaxation are never rounded up (once that stalled 49% where the bound was 1%):
they only give an order in which gaps are taken until the set fits.

What a heuristic does is taken once as it is published, but for awaits, which wait until the next
use. Then our own scheduler times what the heuristic chose, once held to its anchors and once to the
slots of its copies back alone, with policies of ours. So no plan is slower than the best of these
heuristics, and most are faster: the search goes on from there.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, combinations
from typing import NamedTuple

from planner.heuristics.evictors import SWAPADVISOR
from planner.heuristics.heuristic import timeline
from planner.heuristics.recomputing.catalog import STARTS, published_drops
from planner.heuristics.recomputing.choice import RecomputeTask
from planner.heuristics.recomputing.pofo import POFO
from planner.heuristics.task import StepView, Task, task_of
from planner.heuristics.teraio import G10, TERAIO
from planner.problem.gaps import last_reuses
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.problem.smallest_size import most_min_size_bytes
from planner.problem.timed_swap import TimedSwap, held_bytes
from planner.recompute.rewriting import Dropped
from planner.search.candidate import QUICK_POLICIES, Candidate, Override, Timing, Wait
from profiles.schema.profile import Profile

HEURISTICS = (G10, TERAIO, SWAPADVISOR)
"""Those that came first among the published ones most often, and take a second or less."""

Key = Callable[[int], float]


def starting_sets(problem: Problem, shares: Sequence[float]) -> Iterator[frozenset[int]]:
    """Yields sets that fit the budget, each once, in a fixed order.

    All whole gaps together must fit it. Shares are x of the relaxation; empty if it was not solved.
    """
    orders = [sorted(problem.whole_set, key=key, reverse=True) for key in _keys(problem, shares)]
    used = [i for i in orders[0] if shares and shares[i] > SETTINGS.least_used_share]
    found: list[frozenset[int]] = []
    if problem.fits(used):
        found.append(without_needless(problem, used, copy_sources(problem, used)))
    for order in orders:
        prefix = problem.fewest_that_fit(order)
        found.append(without_needless(problem, prefix, copy_sources(problem, prefix)))
        found.append(without_needless(problem, prefix))
    # A dictionary keeps the order in which its keys were first seen.
    whole = [problem.whole_set] if len(problem.whole_gaps) <= SETTINGS.max_whole else []
    yield from dict.fromkeys([*found, *whole, *_small_sets(problem)])


def _small_sets(problem: Problem) -> Iterator[frozenset[int]]:
    """With few gaps, every set that fits."""
    if len(problem.whole_gaps) > SETTINGS.max_exhaustive:
        return
    for count in range(1, len(problem.whole_gaps)):
        for chosen in combinations(sorted(problem.whole_set), count):
            if problem.fits(chosen):
                yield frozenset(chosen)


def groups_to_leave(problem: Problem) -> tuple[frozenset[int], ...]:
    """Returns groups of gaps, without one or the other of which a set may be better.

    Those of small storages, which are many; then those of large storages that are used again
    together, the most bytes first.
    """
    least_bytes = most_min_size_bytes(max(problem.resident_bytes))
    gaps = problem.whole_gaps
    small = frozenset(i for i, gap in enumerate(gaps) if gap.size_bytes < least_bytes)
    large_bytes = SETTINGS.large_storage * problem.budget_bytes
    together: dict[int, set[int]] = {}
    for gap in gaps:
        if gap.size_bytes >= large_bytes:
            together.setdefault(gap.next_use_slot % problem.slot_count, set()).add(gap.storage)
    sizes_bytes = {gap.storage: gap.size_bytes for gap in gaps}
    # A dictionary keeps the order in which its keys were first seen.
    groups = dict.fromkeys(frozenset(storages) for storages in together.values())
    most = sorted(groups, key=lambda group: sum(sizes_bytes[s] for s in group), reverse=True)
    large = [
        frozenset(i for i, gap in enumerate(gaps) if gap.storage in group)
        for group in most[: SETTINGS.max_large_groups]
    ]
    return tuple(group for group in (small, *large) if group)


def without_needless(
    problem: Problem, order: Sequence[int], needed: Collection[int] = ()
) -> frozenset[int]:
    """Returns what is left of a set that fits when gaps the budget does not need are dropped.

    The last ones go first, those `needed` never.
    """
    spare_bytes = problem.budget_bytes - problem.floor_bytes(order)
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


def copy_sources(problem: Problem, chosen: Collection[int]) -> frozenset[int]:
    """Returns those gaps of a set whose host copies make later ones of it clean.

    They may not be needed for their bytes: they use a lane that is idle then for one that is not
    idle later.
    """
    gaps = problem.gaps
    last = last_reuses(gaps[i] for i in chosen)
    return frozenset(
        i for i in chosen if gaps[i].reuse_index < last[gaps[i].storage, gaps[i].version]
    )


def _keys(problem: Problem, shares: Sequence[float]) -> tuple[Key, ...]:
    over_us = [
        duration if held > problem.budget_bytes else 0.0
        for duration, held in zip(problem.durations_us, problem.resident_bytes, strict=True)
    ]
    over = list(accumulate((*over_us, *over_us), initial=0.0))

    def by_relief(i: int) -> float:
        # TERAIO's benefit over cost, with cost the copies' time: time spent above the budget.
        return over[problem.gaps[i].next_use_slot] - over[problem.gaps[i].first_slot]

    known = (problem.free_us, problem.size_times_idle, by_relief)
    return (shares.__getitem__, *known) if shares else known


class Start(NamedTuple):
    """Where the search may start.

    Attributes:
        candidate: It meets the budget.
        timing: When it moves what; None to leave that to our scheduler.
    """

    candidate: Candidate
    timing: Timing | None


def published_starts(profile: Profile, problem: Problem) -> Iterator[Start]:
    """Yields starts from published heuristics that meet the budget."""
    # Whole gaps come first, so their indices are the same without the parts.
    task = Task(StepView(profile), replace(problem, part_gaps=()))
    for heuristic in HEURISTICS:
        published = heuristic.swaps(task)
        if max(held_bytes(problem, published)) <= problem.budget_bytes:
            yield Start(_as_published(published), published_timing(problem, published))
            for candidate in candidates_of(published):
                yield Start(candidate, None)


def published_drops_of(
    profile: Profile, problem: Problem, stop: Callable[[], bool]
) -> Iterator[Dropped]:
    """Yields what published baselines drop of a step, each set once, as long as there is time."""
    task = RecomputeTask(
        task_of(profile, problem.budget_bytes, problem.link, problem.min_size_bytes)
    )
    few = len(profile.ops) <= SETTINGS.max_published_ops
    for _, dropped in published_drops(task, stop, STARTS if few else (POFO,)):
        yield dropped


def published_timing(problem: Problem, published: Sequence[TimedSwap]) -> Timing:
    """Returns what a heuristic does, simulated, with awaits as late as they can be."""
    count = problem.slot_count
    late = tuple(
        swap._replace(await_slot=problem.gaps[swap.gap].next_use_slot) for swap in published
    )
    stalls_us = timeline(problem, late, problem.engines).stall_us
    # For each slot whose anchor may wait, a gap whose copy is waited for there.
    waited = {swap.release_slot % count: swap.gap for swap in late}
    waited |= {swap.await_slot % count: swap.gap for swap in late}
    return Timing(
        chosen=frozenset(swap.gap for swap in late),
        swaps=late,
        waits=tuple(
            Wait(t, waited[t], stall_us) for t, stall_us in enumerate(stalls_us) if stall_us > 0
        ),
    )


def candidates_of(published: Sequence[TimedSwap]) -> Iterator[Candidate]:
    """Yields what our scheduler may make of what a heuristic does with a step."""
    chosen = frozenset(swap.gap for swap in published)
    yield _as_published(published)
    back_as_published = {swap.gap: Override(in_slot=swap.swap_in_slot) for swap in published}
    for policy in QUICK_POLICIES:
        yield Candidate(chosen, policy, back_as_published)


def _as_published(published: Sequence[TimedSwap]) -> Candidate:
    overrides = {
        swap.gap: Override(rank, swap.swap_out_slot, swap.swap_in_slot, swap.release_slot)
        for rank, swap in enumerate(published)
    }
    return Candidate(frozenset(overrides), QUICK_POLICIES[0], overrides)
