"""SuperNeurons: a least-recently-used cache of tensors, and prefetch by convolution.

As described in SuperNeurons (Wang et al., PPoPP 2018), read in others' notes; the cache in its code
(linnanwang/superneurons-release). Nothing moves while the step fits. When it does not, the tensors
that were used longest ago are evicted, and compute waits for their copies. In backward, when a
convolution begins, what is needed up to the next one is prefetched if there is room. Cheap layers
are recomputed there; that half is left out, as everything here only swaps.
"""

from collections.abc import Sequence

from planner.heuristics.eviction import evictions, fetched_early
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task
from profiles.schema.profile import StorageKind


def _cache(task: Task) -> Swaps:
    def least_recently_used(missing_bytes: int, idle: Sequence[int]) -> int:
        return min(idle, key=lambda i: task.gaps[i].first_slot)

    tensors = [i for i in range(len(task.gaps)) if task.kind(i) is StorageKind.ACTIVATION]
    evicted = evictions(task, tensors, least_recently_used)
    return fetched_early(task, evicted, evicted.__getitem__, lambda i: _prefetch_slot(task, i))


def _prefetch_slot(task: Task, i: int) -> int:
    """Where the last heavy backward layer before the user's begins; the use if there is none."""
    use_slot, layers = task.gaps[i].next_use_slot, task.step.layers
    for layer in reversed(layers[: task.step.layer_at(use_slot)]):
        if layer.first_slot < task.step.turn_slot:
            break
        if layer.is_heavy:
            return layer.first_slot
    return use_slot


SUPERNEURONS = Heuristic(
    name="SuperNeurons",
    source="Wang et al. 2018, PPoPP",
    known_from=KnownFrom.OTHERS,
    simplified="without its recomputation of cheap layers; matrix products count as convolutions",
    rule=_cache,
)
