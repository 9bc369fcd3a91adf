"""How much time each direction of a link has left in each slot, as G10 and TERAIO count it."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SlotArray = NDArray[np.int64]


class LinkBudget:
    """One direction: in every slot it can carry for as long as the slot takes.

    Steps repeat: slots count on past the end of the step, and a copy that goes on in the next one
    takes time from its slots.

    Args:
        durations_us: Time of each slot.
    """

    def __init__(self, durations_us: tuple[float, ...]) -> None:
        self._left_us = np.array(durations_us)
        self._sum()

    def finish_slots(self, first_slots: SlotArray, copies_us: FloatArray) -> SlotArray:
        """Returns the slots in which copies end that begin at given slots; past two steps if none.

        Args:
            first_slots: Where each begins.
            copies_us: How long each takes on an idle lane.
        """
        needed_us = self._before_us[first_slots] + copies_us
        return np.searchsorted(self._before_us, needed_us, side="left") - 1

    def start_slots(self, end_slots: SlotArray, copies_us: FloatArray) -> SlotArray:
        """Returns the last slots in which copies can begin that end before given slots.

        Below 0 if there is none.
        """
        needed_us = self._before_us[end_slots] - copies_us
        return np.searchsorted(self._before_us, needed_us, side="right") - 1

    def use_from(self, first_slot: int, copy_us: float) -> None:
        """Takes a copy's time from the slots after its beginning, earliest first."""
        self._use(range(first_slot, first_slot + len(self._left_us)), copy_us)

    def use_until(self, end_slot: int, copy_us: float) -> None:
        """Takes a copy's time from the slots before its end, latest first."""
        self._use(range(end_slot - 1, end_slot - 1 - len(self._left_us), -1), copy_us)

    def _use(self, slots: range, copy_us: float) -> None:
        for slot in slots:
            if copy_us <= 0:
                break
            t = slot % len(self._left_us)
            used_us = min(copy_us, float(self._left_us[t]))
            self._left_us[t] -= used_us
            copy_us -= used_us
        self._sum()

    def _sum(self) -> None:
        two_steps_us = np.concatenate((self._left_us, self._left_us))
        self._before_us = np.concatenate(([0.0], np.cumsum(two_steps_us)))
