"""Gaps: the idle stretches of a storage, where it may wait in host memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from profiles.profile import Profile, Storage

DEFAULT_MIN_SHARE = 1000
"""By default a storage below 1/1000 of the no-plan peak stays: each planned swap costs time at
four anchors, and what small storages give back does not pay for it."""


@dataclass(frozen=True)
class Gap:
    """An idle stretch of one storage between two consecutive uses.

    Attributes:
        storage: Id of the storage.
        name: Its name.
        size_bytes: Its bytes.
        first_slot: The first idle slot in which the runtime knows the storage: the earliest
            swap-out.
        next_use_slot: The slot that uses it again: the latest await. Idle slots run from
            `first_slot` to `next_use_slot - 1`.
    """

    storage: int
    name: str
    size_bytes: int
    first_slot: int
    next_use_slot: int


def default_min_size_bytes(peak_bytes: int) -> int:
    """Returns the size below which storages stay unless the user says otherwise."""
    return max(1, peak_bytes // DEFAULT_MIN_SHARE)


def candidate_gaps(profile: Profile, min_size_bytes: int) -> tuple[Gap, ...]:
    """Returns every gap a plan may use, in order of their first slot.

    The step is planned on its own, not as a cycle: what is alive when it begins must be resident
    then, and what is alive when it ends must be resident in the last slot. Both count as uses.

    Args:
        profile: The step.
        min_size_bytes: Smaller storages stay.
    """
    gaps = [
        gap
        for storage in profile.storages
        if storage.left_out is None and storage.size_bytes >= max(1, min_size_bytes)
        for gap in _gaps_of(profile, storage)
    ]
    return tuple(sorted(gaps, key=lambda gap: (gap.first_slot, gap.next_use_slot, gap.storage)))


def useful_gaps(
    gaps: Sequence[Gap], resident_bytes: Sequence[int], budget_bytes: int
) -> tuple[Gap, ...]:
    """Returns the gaps that are open in a slot which does not fit the budget with nothing moved.

    The others are of no use to any plan: their slots fit whatever is resident, and a swap less
    makes nothing later.

    Args:
        gaps: Candidates.
        resident_bytes: Bytes resident in each slot with nothing moved.
        budget_bytes: The budget.
    """
    over = [held_bytes > budget_bytes for held_bytes in resident_bytes]
    before = list(accumulate(over, initial=0))
    return tuple(gap for gap in gaps if before[gap.next_use_slot] > before[gap.first_slot])


def _gaps_of(profile: Profile, storage: Storage) -> Iterator[Gap]:
    # A storage that no anchor shows is always left out (the profile checks that).
    assert storage.shown_at is not None
    for before, after in pairwise(_use_slots(profile, storage)):
        first_slot = max(before + 1, storage.shown_at)
        if first_slot < after:
            yield Gap(storage.id, storage.name, storage.size_bytes, first_slot, after)


def _use_slots(profile: Profile, storage: Storage) -> Iterator[int]:
    if storage.allocated_op is None:
        yield -1
    for use in storage.uses:
        yield profile.ops[use.op].slot
    if storage.released_op is None:
        yield len(profile.slots) - 1
