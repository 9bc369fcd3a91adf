"""What a plan wants of storages that live from one step to the next.

[Note: entering the steady state] A plan with trips that wrap is a cycle: each step finds storages
where the one before left them. Before the first step, and whenever everything was brought back,
all are resident instead. So a step begins with a prologue that does what the step before would have
done: what the plan has away is sent away, what it has on its way out is issued, and what it has on
its way back is there already, so the rest of that trip is left out. The prologue comes before the
budget is enforced, since until then everything was resident.

[Note: clean trips] A clean trip copies nothing, because the copy that the trip before left on the
host is still true. The plan knows every write of the recorded step. It does not know whether that
earlier trip was made this time, or whether anybody wrote in between who was not recorded. So each
record says whether its host copy is true, and a clean trip that finds none copies after all. A copy
stops being true when its storage is restored, when an op of a step writes the storage, and when
anybody touches it between two steps. Before it is relied on, the version of the tensor and the mark
on the storage are looked at, too (`runtime.storage.write_marks`).
"""

from dataclasses import dataclass

from planner.plan.plan import Plan, Swap
from planner.plan.schedule import Action, ActionKind
from runtime.storage.residency import Residency


@dataclass(frozen=True)
class CyclicSwap:
    """A trip that wraps round the step boundary.

    Attributes:
        swap: The trip.
        residency: Where its storage is when a step ends and the next begins.
    """

    swap: Swap
    residency: Residency


class CyclicSwaps:
    """A plan's trips, as they depend on each other across anchors and steps.

    Attributes:
        wrapping: Trips that are under way at the boundary, in order of swap-out.
    """

    def __init__(self, plan: Plan) -> None:
        self.wrapping = tuple(
            CyclicSwap(swap, _residency_at_boundary(swap)) for swap in plan.swaps if swap.wraps
        )
        self._residencies = {trip.swap.storage: trip.residency for trip in self.wrapping}
        self._clean = {(s.storage, s.swap_out_slot): s for s in plan.swaps if s.clean}
        self._last_use_of_copy = {
            (swap.storage, swap.await_slot)
            for swaps in _swaps_by_storage(plan).values()
            for swap, following in zip(swaps, [*swaps[1:], swaps[0]], strict=True)
            if not following.clean
        }

    def residency(self, storage: int) -> Residency:
        """Returns where the plan has a storage at the boundary."""
        return self._residencies.get(storage, Residency.RESIDENT)

    def clean_swap_from(self, action: Action, slot: int) -> Swap | None:
        """Returns the clean trip that begins with an action at a slot's anchor, if one does."""
        if action.kind is not ActionKind.RELEASE:
            return None
        return self._clean.get((action.storage, slot))

    def needs_copy_after(self, storage: int, await_slot: int) -> bool:
        """Whether the trip after the one that ends at a slot is clean."""
        return (storage, await_slot) not in self._last_use_of_copy


def _residency_at_boundary(swap: Swap) -> Residency:
    """What comes at an earlier slot than the swap-out comes in the next step."""
    if swap.release_slot < swap.swap_out_slot:
        return Residency.LEAVING
    return Residency.AWAY if swap.swap_in_slot < swap.swap_out_slot else Residency.RETURNING


def _swaps_by_storage(plan: Plan) -> dict[int, list[Swap]]:
    trips: dict[int, list[Swap]] = {}
    for swap in sorted(plan.swaps, key=lambda swap: swap.swap_out_slot):
        trips.setdefault(swap.storage, []).append(swap)
    return trips
