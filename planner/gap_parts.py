"""Parts of gaps: trips shorter than a gap, so that several can take turns in a small host pool.

On the device a trip that lasts its whole gap is never worse. In the host pool it may be: bytes can
be issued later, or awaited earlier, than the gap allows.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.gaps import Gap

MAX_PARTS = 1000
"""Above this many possible parts only whole gaps are considered, for the sake of the ILP's size."""


def gap_parts(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """Returns every proper part of every gap, or none at all if they are too many."""
    count = sum(_part_count(gap) for gap in gaps)
    if count > MAX_PARTS:
        return ()
    return tuple(
        replace(gap, first_slot=first_slot, next_use_slot=end_slot)
        for gap in gaps
        for first_slot in range(gap.first_slot, gap.next_use_slot)
        for end_slot in range(first_slot + 1, gap.next_use_slot + 1)
        if (first_slot, end_slot) != (gap.first_slot, gap.next_use_slot)
    )


def _part_count(gap: Gap) -> int:
    slots = gap.next_use_slot - gap.first_slot
    return slots * (slots + 1) // 2 - 1
