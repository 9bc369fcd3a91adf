"""The size below which storages stay unless the user says otherwise."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from planner.problem.gaps import Gap
from planner.problem.settings import SETTINGS


def most_min_size_bytes(peak_bytes: int) -> int:
    """Returns the largest such size, whatever the budget."""
    return max(1, peak_bytes // SETTINGS.smallest_share)


def default_min_size_bytes(
    gaps: Sequence[Gap], resident_bytes: Sequence[int], budget_bytes: int
) -> int:
    """Returns the largest size at which little is left out and the budget can still be met.

    No slot that does not fit with nothing moved may then hold idle storages below that size of
    `left_out_share` of the budget or more; and if swaps can meet the budget, so can those of
    storages of that size.

    Args:
        gaps: Of every storage that can be moved, whatever its size.
        resident_bytes: Bytes resident in each slot with nothing moved.
        budget_bytes: Device bytes to stay within.

    Returns:
        The size; 1 if no swaps meet the budget.
    """
    held = np.array(resident_bytes)
    over = held > budget_bytes
    most = most_min_size_bytes(int(held.max()))
    ordered = sorted(gaps, key=attrgetter("size_bytes"))
    idle = {
        size_bytes: _idle_bytes(list(alike), len(held))
        for size_bytes, alike in groupby(ordered, key=attrgetter("size_bytes"))
    }
    # At first all that can be away is; then more and more of it stays.
    held -= sum(idle.values(), np.zeros_like(held))
    left = np.zeros_like(held)
    smallest = 1
    for size_bytes in [*(size for size in idle if size < most), most]:
        left_out = max(left[over], default=0) / max(1, budget_bytes)
        if left_out >= SETTINGS.left_out_share or max(held + left) > budget_bytes:
            break
        smallest = size_bytes
        left += idle.get(size_bytes, 0)
    return smallest


def left_out_bytes(
    gaps: Sequence[Gap], resident_bytes: Sequence[int], budget_bytes: int, min_size_bytes: int
) -> int:
    """Returns the most idle bytes below a size in any slot that does not fit with nothing moved.

    The rest is as in `default_min_size_bytes`.
    """
    small = [gap for gap in gaps if gap.size_bytes < min_size_bytes]
    over = np.array(resident_bytes) > budget_bytes
    return int(max(_idle_bytes(small, len(over))[over], default=0))


def _idle_bytes(gaps: Sequence[Gap], slot_count: int) -> NDArray[np.int64]:
    """The bytes of gaps that are open in each slot."""
    change = np.zeros(2 * slot_count + 1, dtype=np.int64)
    for gap in gaps:
        change[gap.first_slot] += gap.size_bytes
        change[gap.next_use_slot] -= gap.size_bytes
    idle = np.cumsum(change[:-1])
    return idle[:slot_count] + idle[slot_count:]
