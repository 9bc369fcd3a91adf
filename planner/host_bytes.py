"""How many bytes wait in host memory in each slot."""

from itertools import accumulate
from typing import TYPE_CHECKING

from planner.host_needs import host_needs

if TYPE_CHECKING:
    from planner.plan import Plan


def host_bytes(plan: "Plan") -> tuple[int, ...]:
    """Returns the bytes of the host pool that are occupied in each slot.

    A storage's bytes are, from its swap-out to its await, and on through the clean trips that rely
    on the same copy. The pool itself can be larger, as its layout may leave holes.
    """
    change = [0] * (len(plan.slots) + 1)
    for need in host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots)).needs:
        change[need.first_slot] += need.size_bytes
        change[need.last_slot + 1] -= need.size_bytes
        if need.wraps:
            change[0] += need.size_bytes
    return tuple(accumulate(change[:-1]))
