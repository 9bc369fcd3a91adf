"""Late trips: those of optimizer states in the step that makes them.

[Note: states in the step that makes them] Most optimizers make their states in the first step, all
of them before the first update. A plan that streams them through the device has no room for all at
once, and their trips should have begun long before. So while they are being made, each is sent to
where the plan has it before the next op runs: the first step needs the memory of one state more
than the others, not of all.
"""

from collections import defaultdict

from planner.plan import Plan, Swap


class LateTrips:
    """The trips of a plan, by storage."""

    def __init__(self, plan: Plan) -> None:
        self._slots = len(plan.slots)
        self._trips: defaultdict[int, list[Swap]] = defaultdict(list)
        for swap in plan.swaps:
            self._trips[swap.storage].append(swap)

    def trip_at(self, storage_id: int, slot: int) -> Swap | None:
        """Returns the trip that has a storage away in a slot, if any."""
        trips = self._trips.get(storage_id, ())
        return next((trip for trip in trips if self._is_away(trip, slot)), None)

    def _is_away(self, trip: Swap, slot: int) -> bool:
        # Modulo the step, as a trip may wrap round its boundary.
        passed = (slot - trip.release_slot) % self._slots
        return passed < (trip.swap_in_slot - trip.release_slot) % self._slots
