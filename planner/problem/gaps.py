"""Gaps: the idle stretches of a storage, where it may wait in host memory.

On the device a swap that lasts its whole gap is never worse. In a small host pool it may be: bytes
can be issued later, or awaited earlier, than the gap allows. So parts of gaps are candidates, too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from planner.plan.plan import Boundary
from planner.problem.settings import SETTINGS
from profiles.schema.profile import Access, Profile, Storage, StorageKind

OWNED = frozenset(
    {
        StorageKind.PARAMETER,
        StorageKind.BUFFER,
        StorageKind.OPTIMIZER_STATE,
        StorageKind.GRADIENT,
    }
)
"""Kinds that replay finds by name at any anchor, so that they may be away between two steps."""


@dataclass(frozen=True)
class Gap:
    """An idle stretch of one storage between two consecutive uses.

    Slots count on past the end of the step: with T slots, slot T + 3 is slot 3 of the next step.

    Attributes:
        first_slot: The first idle slot in which the runtime knows the storage, below T: the
            earliest swap-out.
        next_use_slot: The slot that uses it again, below `first_slot + T`: the latest await. Idle
            slots run from `first_slot` to `next_use_slot - 1`.
        version: Which bytes it holds. Gaps of one storage with the same version can share one host
            copy, since nothing writes the storage between them.
        reuse_index: How many gaps with that version come before it since they were written.
        read_only: The step never writes the storage, so that a host copy stays true for good.
        is_mask: It holds nothing but bools.
    """

    storage: int
    name: str
    size_bytes: int
    first_slot: int
    next_use_slot: int
    version: int = 0
    reuse_index: int = 0
    read_only: bool = False
    is_mask: bool = False


class UseSlot(NamedTuple):
    """A slot that uses a storage; -1 stands for whatever came before the step.

    Attributes:
        slot: Its number.
        writes: Whether it writes the storage.
    """

    slot: int
    writes: bool


def candidate_gaps(
    profile: Profile, min_size_bytes: int, boundary: Boundary = Boundary.RESIDENT
) -> tuple[Gap, ...]:
    """Returns every gap a plan may use, in order of their first slot.

    What is alive when the step begins is resident then, and what is alive when it ends is resident
    in the last slot: both count as uses. With a periodic boundary that is not so for storages that
    are both and that replay finds by name; their last use is followed by the first of the next
    step.
    """
    gaps = [
        gap
        for storage in profile.storages
        if storage.left_out is None and storage.size_bytes >= max(1, min_size_bytes)
        for gap in gaps_of(storage, use_slots(profile, storage), len(profile.slots), boundary)
    ]
    return in_order(gaps)


def in_order(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Returns gaps in order of their first slot."""
    # By name, not by id: the order in which storages stand in the profile must not matter.
    return tuple(sorted(gaps, key=lambda gap: (gap.first_slot, gap.next_use_slot, gap.name)))


def useful_gaps(
    gaps: Sequence[Gap], resident_bytes: Sequence[int], budget_bytes: int
) -> tuple[Gap, ...]:
    """Returns the gaps that are open in a slot which does not fit the budget with nothing moved.

    The others are of no use to any plan: their slots fit whatever is resident, and a swap less
    makes nothing later. One that leaves a host copy for a later gap with the same bytes is kept.
    """
    over = [held_bytes > budget_bytes for held_bytes in resident_bytes]
    before = list(accumulate((*over, *over), initial=0))
    last = last_reuses(gap for gap in gaps if before[gap.next_use_slot] > before[gap.first_slot])
    return tuple(g for g in gaps if g.reuse_index <= last.get((g.storage, g.version), -1))


def last_reuses(gaps: Iterable[Gap]) -> dict[tuple[int, int], int]:
    """Returns the last reuse among some gaps of each storage's versions."""
    last: dict[tuple[int, int], int] = {}
    for gap in gaps:
        key = (gap.storage, gap.version)
        last[key] = max(gap.reuse_index, last.get(key, gap.reuse_index))
    return last


def gap_parts(gaps: Sequence[Gap], slot_count: int) -> tuple[Gap, ...]:
    """Returns every proper part of every gap, or none at all if they are too many."""
    slots = [gap.next_use_slot - gap.first_slot for gap in gaps]
    if sum(count * (count + 1) // 2 - 1 for count in slots) > SETTINGS.max_gap_parts:
        return ()
    return tuple(
        _within_step(replace(gap, first_slot=first_slot, next_use_slot=end_slot), slot_count)
        for gap in gaps
        for first_slot in range(gap.first_slot, gap.next_use_slot)
        for end_slot in range(first_slot + 1, gap.next_use_slot + 1)
        if (first_slot, end_slot) != (gap.first_slot, gap.next_use_slot)
    )


def gaps_of(
    storage: Storage, uses: Sequence[UseSlot], slot_count: int, boundary: Boundary
) -> list[Gap]:
    """Returns the gaps of a storage.

    Args:
        storage: A storage that can be moved.
        uses: The slots that use it, in order.
        slot_count: Number of slots of the step.
        boundary: What storages do that live from step to step.
    """
    # A storage that no anchor shows is always left out (the profile checks that).
    assert storage.shown_at is not None
    if boundary is Boundary.PERIODIC and storage.lives_on and storage.kind in OWNED and uses:
        return _cyclic_gaps(storage, uses, slot_count)
    begin = [UseSlot(-1, writes=True)] if storage.allocated_op is None else []
    end = [UseSlot(slot_count - 1, writes=False)] if storage.released_op is None else []
    uses = [*begin, *uses, *end]
    versions = accumulate(use.writes for use in uses)
    return _with_reuses(
        _gap(storage, max(before.slot + 1, storage.shown_at), after.slot, version)
        for (before, after), version in zip(pairwise(uses), versions, strict=False)
    )


def _cyclic_gaps(storage: Storage, uses: Sequence[UseSlot], slot_count: int) -> list[Gap]:
    """Gaps of a storage that lives on: from its last use the step goes on to its first."""
    versions = list(accumulate(use.writes for use in uses))
    write_count = versions[-1]
    following = [*(use.slot for use in uses[1:]), uses[0].slot + slot_count]
    gaps = [
        # What follows the last write is what precedes the first one of the next step.
        _gap(storage, use.slot + 1, next_slot, version % max(1, write_count))
        for use, next_slot, version in zip(uses, following, versions, strict=True)
    ]
    written_slot = max((use.slot for use in uses if use.writes), default=-1)
    from_write = sorted(gaps, key=lambda gap: gap.first_slot <= written_slot)
    return [
        _within_step(replace(gap, read_only=write_count == 0), slot_count)
        for gap in _with_reuses(from_write)
    ]


def _gap(storage: Storage, first_slot: int, next_use_slot: int, version: int) -> Gap:
    return Gap(
        storage.id,
        storage.name,
        storage.size_bytes,
        first_slot,
        next_use_slot,
        version=version,
        is_mask=storage.is_mask,
    )


def _with_reuses(gaps: Iterable[Gap]) -> list[Gap]:
    """Those of a storage's gaps that have idle slots, numbered among those of the same version."""
    seen: Counter[int] = Counter()
    numbered = []
    for gap in gaps:
        if gap.first_slot < gap.next_use_slot:
            numbered.append(replace(gap, reuse_index=seen[gap.version]))
            seen[gap.version] += 1
    return numbered


def _within_step(gap: Gap, slot_count: int) -> Gap:
    """A gap that begins in the next step is one that begins in this step."""
    if gap.first_slot < slot_count:
        return gap
    first_slot, next_use_slot = gap.first_slot - slot_count, gap.next_use_slot - slot_count
    return replace(gap, first_slot=first_slot, next_use_slot=next_use_slot)


def use_slots(profile: Profile, storage: Storage) -> list[UseSlot]:
    """Returns the slots that use a storage, in order."""
    writes: dict[int, bool] = {}
    by_op = [(profile.ops[use.op].slot, use.access) for use in storage.uses]
    for slot, access in [*by_op, *((touch.slot, touch.access) for touch in storage.touches)]:
        writes[slot] = writes.get(slot, False) or access is Access.WRITE
    return [UseSlot(slot, writes[slot]) for slot in sorted(writes)]
