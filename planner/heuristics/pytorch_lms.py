"""PyTorch Large Model Support: the allocator pages out what is idle when memory runs out.

As in the code of IBM/pytorch-large-model-support (patches 1.4 and 1.5, docs/Internals.md), which
was read. There is no plan. When an allocation fails, the idle storage that fits the request best is
paged out; if none is large enough, several, those idle longest first. A storage that was reclaimed
at the same point of the last step is paged out as soon as it is idle, so that in later steps the
copy has often ended by then. A storage is paged in when it is used, and compute waits at once:
nothing is fetched ahead. Every class of storage moves, and what is paged out when a step ends is
paged in when the next one uses it.
"""

from collections.abc import Sequence

from planner.heuristics.eviction import evictions
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled
from planner.plan.plan import Boundary


def _page(case: Case) -> Ruled:
    def best_fit(missing_bytes: int, idle: Sequence[int]) -> int:
        enough = [i for i in idle if case.gaps[i].size_bytes >= missing_bytes]
        if enough:
            return min(enough, key=lambda i: case.gaps[i].size_bytes)
        return min(idle, key=lambda i: case.gaps[i].first_slot)

    def trip(i: int, slot: int) -> RuledSwap:
        gap = case.gaps[i]
        return RuledSwap(i, gap.first_slot, slot, gap.next_use_slot, gap.next_use_slot)

    evicted = evictions(case, range(len(case.gaps)), best_fit)
    return ruled(trip(i, slot) for i, slot in evicted.items())


PYTORCH_LMS = Baseline(
    name="PyTorch LMS",
    source="IBM/pytorch-large-model-support, patch 1.5",
    known_from=KnownFrom.CODE,
    simplified="a steady step, in which every page-out is predicted; all of a slot's allocations "
    "are one request; no fragmentation",
    rule=_page,
    boundary=Boundary.PERIODIC,
)
