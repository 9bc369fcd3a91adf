"""How many device bytes are resident in each slot: without a plan, and under one.

Memory is a fact of program order. Nothing here knows about time.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from planner.plan.plan import Plan


class Absence(NamedTuple):
    """A stretch of slots during which bytes are not on the device.

    Attributes:
        first_slot: The first slot without them.
        end_slot: The first slot with them again. If it is below `first_slot`, they are away across
            the step boundary.
        size_bytes: How many.
    """

    first_slot: int
    end_slot: int
    size_bytes: int


def resident_bytes(without_bytes: Iterable[int], absences: Iterable[Absence]) -> tuple[int, ...]:
    """Returns the bytes resident in each slot: those with nothing swapped less what is away."""
    needs = tuple(without_bytes)
    change = [0] * (len(needs) + 1)
    for absence in absences:
        change[absence.first_slot] -= absence.size_bytes
        change[absence.end_slot] += absence.size_bytes
        if absence.end_slot < absence.first_slot:
            change[0] -= absence.size_bytes
    return tuple(need + moved for need, moved in zip(needs, accumulate(change[:-1]), strict=True))


def unplanned_bytes(plan: Plan) -> tuple[int, ...]:
    """Returns the bytes resident in each slot without the plan."""
    return tuple(
        slot.resident_bytes if slot.without_bytes is None else slot.without_bytes
        for slot in plan.slots
    )


def planned_bytes(plan: Plan) -> tuple[int, ...]:
    """Returns the bytes resident in each slot under the plan."""
    away = (
        Absence(swap.release_slot, swap.swap_in_slot, plan.sizes_bytes[swap.storage])
        for swap in plan.swaps
    )
    return resident_bytes((slot.resident_bytes for slot in plan.slots), away)
