"""SwapAdvisor's planner: Belady's rule out, as early as memory allows in.

As described in SwapAdvisor (Huang et al., ASPLOS 2020), read in others' notes, without its genetic
search over schedules and memory pools. The ops are scanned in order; when memory is short, of the
tensors that are large enough the one used again last is evicted (Belady), else the one used again
last of all, and so on. Copies to the host start after the victim's last use, copies back as early
as memory allows and never before the copy to the host has ended. Every class of storage moves, on
one stream each way; what is resident when a step begins is what the step before left.
"""

from collections.abc import Iterator, Sequence

from planner.heuristics.eviction import evictions, room_after
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled
from planner.plan.plan import Boundary


def _belady(case: Case) -> Ruled:
    def used_last(missing_bytes: int, idle: Sequence[int]) -> int:
        enough = [i for i in idle if case.gaps[i].size_bytes >= missing_bytes]
        return max(enough or idle, key=lambda i: case.gaps[i].next_use_slot)

    return ruled(_trips(case, evictions(case, range(len(case.gaps)), used_last)))


SWAPADVISOR = Baseline(
    name="SwapAdvisor (Belady)",
    source="Huang et al. 2020, ASPLOS",
    known_from=KnownFrom.OTHERS,
    simplified="its planner alone, for the recorded order of ops; no size classes",
    rule=_belady,
    boundary=Boundary.PERIODIC,
)


def _trips(case: Case, evicted: dict[int, int]) -> Iterator[RuledSwap]:
    room = room_after(case, evicted)
    for i in sorted(evicted, key=lambda i: case.gaps[i].next_use_slot):
        gap = case.gaps[i]
        in_slot = room.first_with_room(gap, evicted[i] + 1)
        room.take(gap.size_bytes, in_slot, gap.next_use_slot)
        yield RuledSwap(i, gap.first_slot, evicted[i], in_slot, gap.next_use_slot)
