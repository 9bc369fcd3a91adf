"""vDNN: every layer offloads its input during its own forward and waits for it at its end.

As described in vDNN (Rhu et al. 2016, arXiv:1602.08124), read in others' notes and in excerpts of
re-implementations. Forward: a layer's input is offloaded while the layer runs, and both streams are
synchronised at the layer's end. Backward: while a layer runs, the first layer before it that was
offloaded and not yet prefetched is prefetched (`findPrefetchLayer`); the search gives up at a
convolution. Both are synchronised at the layer's end. The variant `all` offloads every layer's
input, `conv` only what heavy layers read. The budget plays no part.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task

SOURCE = "Rhu et al. 2016, arXiv:1602.08124"
SIMPLIFIED = (
    "a copy to the host begins after the last forward use, as in any plan, so it overlaps the "
    "layer after its own; layers are leaf modules"
)


def _is_read_by_heavy(task: Task, i: int) -> bool:
    gap, step = task.gaps[i], task.step
    uses = step.profile.storages[gap.storage].uses
    return any(
        step.heavy_us[use.op] > 0 and step.slot_of_op(use.op) < gap.first_slot for use in uses
    )


def _swaps(task: Task, *, conv: bool) -> Swaps:
    layers = task.step.layers
    releases = {
        i: layers[task.step.layer_at(task.gaps[i].first_slot)].end_slot
        for i in task.activations()
        if not conv or _is_read_by_heavy(task, i)
    }
    moved = [i for i, slot in releases.items() if slot < task.gaps[i].next_use_slot]
    prefetches = _prefetches(task, moved)
    for i in moved:
        gap = task.gaps[i]
        in_slot = await_slot = gap.next_use_slot
        if i in prefetches:
            layer = layers[prefetches[i]]
            in_slot = max(layer.first_slot, releases[i] + 1)
            await_slot = max(layer.end_slot, in_slot)
        yield task.swap(i, releases[i], in_slot, await_slot=await_slot)


def _prefetches(task: Task, moved: Iterable[int]) -> dict[int, int]:
    """Returns during which backward layer each gap is prefetched, if it is."""
    needed: dict[int, list[int]] = defaultdict(list)
    for i in moved:
        needed[task.step.layer_at(task.gaps[i].next_use_slot)].append(i)
    found: dict[int, int] = {}
    for current in range(task.step.layer_at(task.step.turn_slot), len(task.step.layers)):
        layer = _layer_to_prefetch(task, current, needed)
        if layer is not None:
            found.update(dict.fromkeys(needed.pop(layer), current))
    return found


def _layer_to_prefetch(task: Task, current: int, needed: dict[int, list[int]]) -> int | None:
    """vDNN's findPrefetchLayer; backward layers stand in reversed order here."""
    for layer in range(current + 1, len(task.step.layers)):
        if layer in needed:
            return layer
        if task.step.layers[layer].is_heavy:
            return None
    return None


VDNN_ALL = Heuristic(
    name="vDNN-all",
    source=SOURCE,
    known_from=KnownFrom.OTHERS,
    simplified=SIMPLIFIED,
    rule=partial(_swaps, conv=False),
)
VDNN_CONV = Heuristic(
    name="vDNN-conv",
    source=SOURCE,
    known_from=KnownFrom.OTHERS,
    simplified=f"{SIMPLIFIED}; matrix products and attention count as convolutions",
    rule=partial(_swaps, conv=True),
)
