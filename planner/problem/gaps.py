"""Gaps: the idle stretches of a storage, where it may wait in host memory.

Parts of gaps: trips shorter than a gap, so that several can take turns in a small host pool.

On the device a trip that lasts its whole gap is never worse. In the host pool it may be: bytes can
be issued later, or awaited earlier, than the gap allows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from planner.plan.plan import Boundary
from profiles.schema.profile import Access, Profile, Storage, StorageKind

DEFAULT_MIN_SHARE = 1000
"""By default a storage below 1/1000 of the no-plan peak stays: each planned swap costs time at
four anchors, and what small storages give back does not pay for it."""


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
        storage: Id of the storage.
        name: Its name.
        size_bytes: Its bytes.
        first_slot: The first idle slot in which the runtime knows the storage, below T: the
            earliest swap-out.
        next_use_slot: The slot that uses it again, below `first_slot + T`: the latest await. Idle
            slots run from `first_slot` to `next_use_slot - 1`.
        content: Which bytes it holds. Gaps of one storage with the same content can share one host
            copy, since nothing writes the storage between them.
        turn: How many gaps with that content come before it since they were written.
        is_mask: It holds nothing but bools.
        lasting: The step never writes the storage, so that a host copy stays true for good.
    """

    storage: int
    name: str
    size_bytes: int
    first_slot: int
    next_use_slot: int
    content: int = 0
    turn: int = 0
    lasting: bool = False
    is_mask: bool = False

    def is_open_in(self, slot: int, slot_count: int) -> bool:
        """Whether a slot of the step is one of its idle slots."""
        idle_slots = self.next_use_slot - self.first_slot
        return (slot - self.first_slot) % slot_count < idle_slots


class _UseSlot(NamedTuple):
    """A slot that uses a storage; -1 stands for whatever came before the step."""

    slot: int
    writes: bool


def default_min_size_bytes(peak_bytes: int) -> int:
    """Returns the size below which storages stay unless the user says otherwise."""
    return max(1, peak_bytes // DEFAULT_MIN_SHARE)


def candidate_gaps(
    profile: Profile, min_size_bytes: int, boundary: Boundary = Boundary.RESIDENT
) -> tuple[Gap, ...]:
    """Returns every gap a plan may use, in order of their first slot.

    What is alive when the step begins is resident then, and what is alive when it ends is resident
    in the last slot: both count as uses. With a periodic boundary that is not so for storages that
    are both and that replay finds by name; their last use is followed by the first of the next
    step.

    Args:
        profile: The step.
        min_size_bytes: Smaller storages stay.
        boundary: What storages do that live from step to step.
    """
    gaps = [
        gap
        for storage in profile.storages
        if storage.left_out is None and storage.size_bytes >= max(1, min_size_bytes)
        for gap in _gaps_of(profile, storage, boundary)
    ]
    # By name, not by id: the order in which storages stand in the profile must not matter.
    return tuple(sorted(gaps, key=lambda gap: (gap.first_slot, gap.next_use_slot, gap.name)))


def useful_gaps(
    gaps: Sequence[Gap], resident_bytes: Sequence[int], budget_bytes: int
) -> tuple[Gap, ...]:
    """Returns the gaps that are open in a slot which does not fit the budget with nothing moved.

    The others are of no use to any plan: their slots fit whatever is resident, and a swap less
    makes nothing later. One that leaves a host copy for a later gap with the same bytes is kept.

    Args:
        gaps: Candidates.
        resident_bytes: Bytes resident in each slot with nothing moved.
        budget_bytes: The budget.
    """
    over = [held_bytes > budget_bytes for held_bytes in resident_bytes]
    before = list(accumulate((*over, *over), initial=0))
    last_turns: dict[tuple[int, int], int] = {}
    for gap in gaps:
        if before[gap.next_use_slot] > before[gap.first_slot]:
            key = (gap.storage, gap.content)
            last_turns[key] = max(gap.turn, last_turns.get(key, gap.turn))
    return tuple(gap for gap in gaps if gap.turn <= last_turns.get((gap.storage, gap.content), -1))


def _gaps_of(profile: Profile, storage: Storage, boundary: Boundary) -> list[Gap]:
    # A storage that no anchor shows is always left out (the profile checks that).
    assert storage.shown_at is not None
    uses = _use_slots(profile, storage)
    if boundary is Boundary.PERIODIC and storage.lives_on and storage.kind in OWNED and uses:
        return _cyclic_gaps(storage, uses, len(profile.slots))
    if storage.allocated_op is None:
        uses.insert(0, _UseSlot(-1, writes=True))
    if storage.released_op is None:
        uses.append(_UseSlot(len(profile.slots) - 1, writes=False))
    gaps = []
    contents = accumulate(use.writes for use in uses)
    for (before, after), content in zip(pairwise(uses), contents, strict=False):
        first_slot = max(before.slot + 1, storage.shown_at)
        if first_slot < after.slot:
            gaps.append(_gap(storage, first_slot, after.slot, content))
    return _with_turns(gaps)


def _cyclic_gaps(storage: Storage, uses: Sequence[_UseSlot], slot_count: int) -> list[Gap]:
    """Gaps of a storage that lives on: from its last use the step goes on to its first."""
    write_count = sum(use.writes for use in uses)
    contents = list(accumulate(use.writes for use in uses))
    following = [*(use.slot for use in uses[1:]), uses[0].slot + slot_count]
    gaps = []
    for use, next_slot, content in zip(uses, following, contents, strict=True):
        if use.slot + 1 >= next_slot:
            continue
        # What follows the last write is what precedes the first one of the next step.
        gap = _gap(storage, use.slot + 1, next_slot, content % max(1, write_count))
        gaps.append(gap)
    last_write = max((n for n, use in enumerate(uses) if use.writes), default=-1)
    written_slot = uses[last_write].slot if last_write >= 0 else -1
    from_write = sorted(gaps, key=lambda gap: gap.first_slot <= written_slot)
    turned = _with_turns(from_write)
    return [_within_step(gap, slot_count, lasting=write_count == 0) for gap in turned]


def _gap(storage: Storage, first_slot: int, next_use_slot: int, content: int) -> Gap:
    return Gap(
        storage.id,
        storage.name,
        storage.size_bytes,
        first_slot,
        next_use_slot,
        content=content,
        is_mask=storage.is_mask,
    )


def _with_turns(gaps: Sequence[Gap]) -> list[Gap]:
    seen: Counter[int] = Counter()
    turned = []
    for gap in gaps:
        turned.append(replace(gap, turn=seen[gap.content]))
        seen[gap.content] += 1
    return turned


def _within_step(gap: Gap, slot_count: int, *, lasting: bool) -> Gap:
    """A gap that begins with the next step is one that begins with this step."""
    shift = slot_count if gap.first_slot == slot_count else 0
    return replace(
        gap,
        first_slot=gap.first_slot - shift,
        next_use_slot=gap.next_use_slot - shift,
        lasting=lasting,
    )


def _use_slots(profile: Profile, storage: Storage) -> list[_UseSlot]:
    writes: dict[int, bool] = {}
    by_op = [(profile.ops[use.op].slot, use.access) for use in storage.uses]
    for slot, access in [*by_op, *((touch.slot, touch.access) for touch in storage.touches)]:
        writes[slot] = writes.get(slot, False) or access is Access.WRITE
    return [_UseSlot(slot, writes[slot]) for slot in sorted(writes)]


MAX_PARTS = 1000
"""Above this many possible parts only whole gaps are considered, for the sake of the ILP's size."""


def gap_parts(gaps: Sequence[Gap], slot_count: int) -> tuple[Gap, ...]:
    """Returns every proper part of every gap, or none at all if they are too many."""
    count = sum(_part_count(gap) for gap in gaps)
    if count > MAX_PARTS:
        return ()
    return tuple(
        _parts_within_step(gap, first_slot, end_slot, slot_count)
        for gap in gaps
        for first_slot in range(gap.first_slot, gap.next_use_slot)
        for end_slot in range(first_slot + 1, gap.next_use_slot + 1)
        if (first_slot, end_slot) != (gap.first_slot, gap.next_use_slot)
    )


def _part_count(gap: Gap) -> int:
    slots = gap.next_use_slot - gap.first_slot
    return slots * (slots + 1) // 2 - 1


def _parts_within_step(gap: Gap, first_slot: int, end_slot: int, slot_count: int) -> Gap:
    """A part that lies in the next step is one of this step."""
    shift = slot_count if first_slot >= slot_count else 0
    return replace(gap, first_slot=first_slot - shift, next_use_slot=end_slot - shift)
