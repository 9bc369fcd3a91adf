"""How long a copy keeps its lane, by the engine that carries it, and which engine is the fastest.

The copy engine takes the link's latency and its bytes over the link's rate. Kernels take what was
measured of them (`profiles.schema.link.MethodRate`), between two measured sizes in proportion.

[Note: when a kernel carries] A kernel takes processors from compute, so it must be faster than the
copy engine by both counts: by the link's figures, which plans are timed with, and by what was
measured of the copy engine right beside it. Above the largest size measured only bits are worth it.

[Note: batches] Neighbours that the batch kernel carries, copies issued at one anchor with nothing
else between them on their lane, go in one launch and end together. A launch takes as long as its
rows at the rate measured of many, and no less than its largest row takes alone.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from planner.plan.lanes import Direction, LaneLoad, link_load, rate_bytes_per_us
from planner.plan.schedule import Action, ActionKind, Schedule
from profiles.schema.link import CopyMethod, MethodRate
from profiles.schema.profile import Link

DIRECTIONS = {ActionKind.SWAP_OUT: Direction.D2H, ActionKind.SWAP_IN: Direction.H2D}
KERNELS = (CopyMethod.VECTOR_KERNEL, CopyMethod.BATCH_KERNEL, CopyMethod.BITPACK_KERNEL)
"""Those that carry whole storages."""

Engines = Mapping[int, CopyMethod]
"""What carries each storage that no copy engine does, by id."""
DMA_ALONE: Engines = MappingProxyType({})


def copy_us(link: Link, direction: Direction, size_bytes: int, engine: CopyMethod) -> float:
    """Returns how long a copy takes among others of its kind."""
    if engine is CopyMethod.DMA or not _rows(link, engine):
        return link.latency_us + size_bytes / rate_bytes_per_us(link, direction)
    return measured_us(link, direction, size_bytes, engine)


def measured_us(link: Link, direction: Direction, size_bytes: int, engine: CopyMethod) -> float:
    """Returns what was measured of an engine for a copy among others of its kind.

    Raises:
        ValueError: Nothing was.
    """
    rows = _rows(link, engine)
    if not rows:
        raise ValueError(f"{engine.value} was not measured")
    sizes = [row.size_bytes for row in rows]
    times_us = [row.size_bytes / rate_bytes_per_us(row, direction) for row in rows]
    above = bisect_left(sizes, size_bytes)
    if above == 0:
        return times_us[0]
    if above == len(rows):
        return size_bytes / rate_bytes_per_us(rows[-1], direction)
    share = (size_bytes - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    return times_us[above - 1] + share * (times_us[above] - times_us[above - 1])


def engine_for(link: Link, size_bytes: int, *, is_mask: bool) -> CopyMethod:
    """Returns the engine that takes the least time there and back; the copy engine if in doubt.

    A mask's device bytes are bools. See [Note: when a kernel carries].
    """

    def both_ways_us(engine: CopyMethod) -> float:
        return sum(copy_us(link, direction, size_bytes, engine) for direction in Direction)

    kernels = [kernel for kernel in KERNELS if _may_carry(link, kernel, size_bytes, is_mask)]
    best = min([CopyMethod.DMA, *kernels], key=both_ways_us)
    if _rows(link, CopyMethod.DMA):
        beside_us = sum(
            measured_us(link, direction, size_bytes, CopyMethod.DMA) for direction in Direction
        )
        if beside_us <= both_ways_us(best):
            return CopyMethod.DMA
    return best


def _may_carry(link: Link, kernel: CopyMethod, size_bytes: int, is_mask: bool) -> bool:
    rows = _rows(link, kernel)
    packs = kernel is CopyMethod.BITPACK_KERNEL
    return bool(rows) and (is_mask if packs else size_bytes <= rows[-1].size_bytes)


def launch_us(
    link: Link, direction: Direction, sizes_bytes: Sequence[int], engine: CopyMethod
) -> float:
    """Returns how long one launch takes; see [Note: batches]."""
    rows_us = sum(copy_us(link, direction, size, engine) for size in sizes_bytes)
    alone = CopyMethod.VECTOR_KERNEL
    if engine is not CopyMethod.BATCH_KERNEL or not any(r.engine is alone for r in link.engines):
        return rows_us
    return max(rows_us, *(copy_us(link, direction, size, alone) for size in sizes_bytes))


def lane_loads(
    schedule: Schedule, sizes_bytes: Mapping[int, int], link: Link, engines: Engines
) -> tuple[tuple[LaneLoad | None, ...], ...]:
    """Returns what each action of a schedule puts on its lane; None for those that wait."""
    return tuple(
        tuple(
            load
            for kind, group in groupby(actions, key=lambda action: action.kind)
            for load in _loads_of(kind, list(group), sizes_bytes, link, engines)
        )
        for actions in schedule
    )


def batches(actions: Sequence[Action], engines: Engines) -> list[list[Action]]:
    """Returns an anchor's copies of one direction, those that one launch carries together."""

    def is_batched(action: Action) -> bool:
        return engines.get(action.storage) is CopyMethod.BATCH_KERNEL

    groups: list[list[Action]] = []
    for together, neighbours in groupby(actions, key=is_batched):
        group = list(neighbours)
        groups += [group] if together else [[action] for action in group]
    return groups


def _loads_of(
    kind: ActionKind,
    actions: Sequence[Action],
    sizes_bytes: Mapping[int, int],
    link: Link,
    engines: Engines,
) -> list[LaneLoad | None]:
    direction = DIRECTIONS.get(kind)
    if direction is None:
        return [None] * len(actions)
    loads: list[LaneLoad | None] = []
    for group in batches(actions, engines):
        sizes = [sizes_bytes[action.storage] for action in group]
        engine = engines.get(group[0].storage, CopyMethod.DMA)
        if engine is CopyMethod.DMA:
            loads.append(link_load(link, direction, sizes[0]))
            continue
        # The lane is taken for as long as the launch lasts; the others of it end with the first.
        loads.append(LaneLoad(0.0, launch_us(link, direction, sizes, engine)))
        loads += [LaneLoad(0.0, 0.0)] * (len(group) - 1)
    return loads


def _rows(link: Link, engine: CopyMethod) -> list[MethodRate]:
    return sorted((r for r in link.engines if r.engine is engine), key=lambda r: r.size_bytes)
