"""vDNN: every layer offloads its input during its own forward and waits for it at its end.

As described in vDNN (Rhu et al. 2016, arXiv:1602.08124), read in others' notes and in excerpts of
re-implementations. Forward: a layer's input is offloaded while the layer runs, and both streams are
synchronised at the layer's end. Backward: while a layer runs, the first layer before it that was
offloaded and not yet prefetched is prefetched (`findPrefetchLayer`); the search gives up at a
convolution. Both are synchronised at the layer's end. The variant `all` offloads every layer's
input, `conv` only what heavy layers read. The budget plays no part.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled

SOURCE = "Rhu et al. 2016, arXiv:1602.08124"
SIMPLIFIED = (
    "a copy to the host begins after the last forward use, as in any plan, so it overlaps the "
    "layer after its own; layers are leaf modules"
)


def _all(case: Case) -> Ruled:
    return _plan(case, case.activations())


def _conv(case: Case) -> Ruled:
    return _plan(case, (i for i in case.activations() if _is_read_by_heavy(case, i)))


VDNN_ALL = Baseline(
    name="vDNN-all",
    source=SOURCE,
    known_from=KnownFrom.OTHERS,
    simplified=SIMPLIFIED,
    rule=_all,
)
VDNN_CONV = Baseline(
    name="vDNN-conv",
    source=SOURCE,
    known_from=KnownFrom.OTHERS,
    simplified=f"{SIMPLIFIED}; matrix products and attention count as convolutions",
    rule=_conv,
)


def _is_read_by_heavy(case: Case, i: int) -> bool:
    gap = case.gaps[i]
    ops = case.step.profile.ops
    uses = case.step.profile.storages[gap.storage].uses
    return any(case.step.heavy_us[use.op] > 0 for use in uses if ops[use.op].slot < gap.first_slot)


def _plan(case: Case, offloaded: Iterable[int]) -> Ruled:
    layers = case.step.layers
    releases = {i: layers[case.step.layer_at(case.gaps[i].first_slot)].end_slot for i in offloaded}
    moved = [i for i, slot in releases.items() if slot < case.gaps[i].next_use_slot]
    prefetches = _prefetches(case, moved)
    return ruled(_trips(case, moved, releases, prefetches))


def _trips(
    case: Case, moved: Iterable[int], releases: dict[int, int], prefetches: dict[int, int]
) -> Iterator[RuledSwap]:
    for i in moved:
        gap = case.gaps[i]
        in_slot = await_slot = gap.next_use_slot
        if i in prefetches:
            layer = case.step.layers[prefetches[i]]
            in_slot = max(layer.first_slot, releases[i] + 1)
            await_slot = max(layer.end_slot, in_slot)
        yield RuledSwap(i, gap.first_slot, releases[i], in_slot, await_slot)


def _prefetches(case: Case, moved: Iterable[int]) -> dict[int, int]:
    """Returns during which backward layer each gap is prefetched, if it is."""
    needed: dict[int, list[int]] = defaultdict(list)
    for i in moved:
        needed[case.step.layer_at(case.gaps[i].next_use_slot)].append(i)
    found: dict[int, int] = {}
    for current in range(case.step.layer_at(case.step.turn_slot), len(case.step.layers)):
        layer = _layer_to_prefetch(case, current, needed)
        if layer is not None:
            found.update(dict.fromkeys(needed.pop(layer), current))
    return found


def _layer_to_prefetch(case: Case, current: int, needed: dict[int, list[int]]) -> int | None:
    """vDNN's findPrefetchLayer; backward layers stand in reversed order here."""
    for layer in range(current + 1, len(case.step.layers)):
        if layer in needed:
            return layer
        if case.step.layers[layer].is_heavy:
            return None
    return None
