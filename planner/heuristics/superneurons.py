"""SuperNeurons: a least-recently-used cache of tensors, and prefetch by convolution.

As described in SuperNeurons (Wang et al., PPoPP 2018), read in others' notes; the cache in its code
(linnanwang/superneurons-release). Nothing moves while the step fits. When it does not, the tensors
that were used longest ago are evicted, and compute waits for their copies. In backward, when a
convolution begins, what is needed up to the next one is prefetched if there is room. Cheap layers
are recomputed there; that half is left out, as everything here only swaps.
"""

from collections.abc import Iterator, Sequence

from planner.heuristics.eviction import evictions, room_after
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled
from profiles.schema.profile import StorageKind


def _cache(case: Case) -> Ruled:
    def least_recently_used(missing_bytes: int, idle: Sequence[int]) -> int:
        return min(idle, key=lambda i: case.gaps[i].first_slot)

    tensors = [i for i in range(len(case.gaps)) if case.kind(i) is StorageKind.ACTIVATION]
    evicted = evictions(case, tensors, least_recently_used)
    return ruled(_trips(case, evicted))


SUPERNEURONS = Baseline(
    name="SuperNeurons",
    source="Wang et al. 2018, PPoPP",
    known_from=KnownFrom.OTHERS,
    simplified="without its recomputation of cheap layers; matrix products count as convolutions",
    rule=_cache,
)


def _trips(case: Case, evicted: dict[int, int]) -> Iterator[RuledSwap]:
    room = room_after(case, evicted)
    for i in sorted(evicted, key=lambda i: case.gaps[i].next_use_slot):
        gap = case.gaps[i]
        told_slot = max(_prefetch_slot(case, gap.next_use_slot), evicted[i] + 1)
        in_slot = room.first_with_room(gap, told_slot)
        room.take(gap.size_bytes, in_slot, gap.next_use_slot)
        yield RuledSwap(i, evicted[i], evicted[i], in_slot, gap.next_use_slot)


def _prefetch_slot(case: Case, use_slot: int) -> int:
    """Where the last heavy backward layer before the user's begins; the use if there is none."""
    layers = case.step.layers
    for layer in reversed(layers[: case.step.layer_at(use_slot)]):
        if layer.first_slot < case.step.turn_slot:
            return use_slot
        if layer.is_heavy:
            return layer.first_slot
    return use_slot
