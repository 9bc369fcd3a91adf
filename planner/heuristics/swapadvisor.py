"""SwapAdvisor's planner: Belady's rule out, as early as memory allows in.

As described in SwapAdvisor (Huang et al., ASPLOS 2020), read in others' notes, without its genetic
search over schedules and memory pools. The ops are scanned in order; when memory is short, of the
tensors that are large enough the one used again last is evicted (Belady), else the one used again
last of all, and so on. Copies to the host start after the victim's last use, copies back as early
as memory allows and never before the copy to the host has ended. Every class of storage moves, on
one stream each way; what is resident when a step begins is what the step before left.
"""

from collections.abc import Sequence

from planner.heuristics.eviction import evictions, fetched_early
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary


def _belady(task: Task) -> Swaps:
    def used_last(missing_bytes: int, idle: Sequence[int]) -> int:
        enough = [i for i in idle if task.gaps[i].size_bytes >= missing_bytes]
        return max(enough or idle, key=lambda i: task.gaps[i].next_use_slot)

    def first_slot(i: int) -> int:
        return task.gaps[i].first_slot

    evicted = evictions(task, range(len(task.gaps)), used_last)
    return fetched_early(task, evicted, first_slot, first_slot)


SWAPADVISOR = Heuristic(
    name="SwapAdvisor (Belady)",
    source="Huang et al. 2020, ASPLOS",
    known_from=KnownFrom.OTHERS,
    simplified="its planner alone, for the recorded order of ops; no size classes",
    rule=_belady,
    boundary=Boundary.PERIODIC,
)
