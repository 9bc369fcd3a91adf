"""SuperNeurons and SwapAdvisor: evict when memory is short, fetch as early as memory allows.

SuperNeurons as described by Wang et al. (PPoPP 2018), read in others' notes; the cache in its code
(linnanwang/superneurons-release). Nothing moves while the step fits. When it does not, the tensors
that were used longest ago are evicted, and compute waits for their copies. In backward, when a
convolution begins, what is needed up to the next one is prefetched if there is room. Cheap layers
are recomputed there: see `planner.heuristics.recomputing.superneurons`.

SwapAdvisor's planner as described by Huang et al. (ASPLOS 2020), read in others' notes, without its
genetic search over schedules and memory pools. The ops are scanned in order; when memory is short,
of the tensors that are large enough the one used again last is evicted (Belady), else the one used
again last of all, and so on. Copies to the host start after the victim's last use, copies back as
early as memory allows and never before the copy to the host has ended. Every class of storage
moves, on one stream each way; what is resident when a step begins is what the step before left.
"""

from collections.abc import Callable, Mapping, Sequence

from planner.heuristics.eviction import FreeBytes, evictions
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary
from profiles.schema.profile import StorageKind


def _cache(task: Task) -> Swaps:
    def least_recently_used(missing_bytes: int, idle: Sequence[int]) -> int:
        return min(idle, key=lambda i: task.gaps[i].first_slot)

    tensors = [i for i in range(len(task.gaps)) if task.kind(i) is StorageKind.ACTIVATION]
    evicted = evictions(task, tensors, least_recently_used)
    return _fetched_early(task, evicted, evicted.__getitem__, lambda i: _prefetch_slot(task, i))


def _prefetch_slot(task: Task, i: int) -> int:
    """Where the last heavy backward layer before the user's begins; the use if there is none."""
    use_slot, layers = task.gaps[i].next_use_slot, task.step.layers
    for layer in reversed(layers[: task.step.layer_at(use_slot)]):
        if layer.first_slot < task.step.turn_slot:
            break
        if layer.is_heavy:
            return layer.first_slot
    return use_slot


def _belady(task: Task) -> Swaps:
    def used_last(missing_bytes: int, idle: Sequence[int]) -> int:
        enough = [i for i in idle if task.gaps[i].size_bytes >= missing_bytes]
        return max(enough or idle, key=lambda i: task.gaps[i].next_use_slot)

    def first_slot(i: int) -> int:
        return task.gaps[i].first_slot

    evicted = evictions(task, range(len(task.gaps)), used_last)
    return _fetched_early(task, evicted, first_slot, first_slot)


def _fetched_early(
    task: Task,
    evicted: Mapping[int, int],
    swap_out_slot: Callable[[int], int],
    prefetch_slot: Callable[[int], int],
) -> Swaps:
    """The swaps of storages evicted at some slots, none fetched before another one."""
    free = FreeBytes(task.problem, evicted)
    for i in sorted(evicted, key=lambda i: task.gaps[i].next_use_slot):
        gap = task.gaps[i]
        earliest_slot = max(prefetch_slot(i), evicted[i] + 1)
        in_slot = free.first_with_room(gap.size_bytes, earliest_slot, gap.next_use_slot)
        free.give(-gap.size_bytes, in_slot, gap.next_use_slot)
        yield task.swap(i, evicted[i], in_slot, swap_out_slot=swap_out_slot(i))


SUPERNEURONS = Heuristic(
    name="SuperNeurons",
    source="Wang et al. 2018, PPoPP",
    known_from=KnownFrom.OTHERS,
    simplified="without its recomputation of cheap layers; matrix products count as convolutions",
    rule=_cache,
)
SWAPADVISOR = Heuristic(
    name="SwapAdvisor (Belady)",
    source="Huang et al. 2020, ASPLOS",
    known_from=KnownFrom.OTHERS,
    simplified="its planner alone, for the recorded order of ops; no size classes",
    rule=_belady,
    boundary=Boundary.PERIODIC,
)
