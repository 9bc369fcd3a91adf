"""Parts of gaps: trips shorter than a gap, so that several can take turns in a small host pool.

On the device a trip that lasts its whole gap is never worse. In the host pool it may be: bytes can
be issued later, or awaited earlier, than the gap allows.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.gaps import Gap

MAX_PARTS = 1000
"""Above this many possible parts only whole gaps are considered, for the sake of the ILP's size."""


def gap_parts(gaps: Sequence[Gap], slot_count: int) -> tuple[Gap, ...]:
    """Returns every proper part of every gap, or none at all if they are too many."""
    count = sum(_part_count(gap) for gap in gaps)
    if count > MAX_PARTS:
        return ()
    return tuple(
        _within_step(gap, first_slot, end_slot, slot_count)
        for gap in gaps
        for first_slot in range(gap.first_slot, gap.next_use_slot)
        for end_slot in range(first_slot + 1, gap.next_use_slot + 1)
        if (first_slot, end_slot) != (gap.first_slot, gap.next_use_slot)
    )


def _part_count(gap: Gap) -> int:
    slots = gap.next_use_slot - gap.first_slot
    return slots * (slots + 1) // 2 - 1


def _within_step(gap: Gap, first_slot: int, end_slot: int, slot_count: int) -> Gap:
    """A part that lies in the next step is one of this step."""
    shift = slot_count if first_slot >= slot_count else 0
    return replace(gap, first_slot=first_slot - shift, next_use_slot=end_slot - shift)
