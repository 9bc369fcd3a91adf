"""What the anchors to come will wait for, as far as that is known at one of them.

[Note: Waits that are spread] At one anchor all releases come before what is issued back, so a lane
is idle while compute waits for the other one there. Where an anchor will wait long for room, such
as that of an op which needs a lot of it, those before it may wait for a part of that: each gives
back some bytes and takes some, and both lanes are busy meanwhile. Nothing is lost by that: what has
begun by now takes the lane just as long. (To wait for copies back ahead is another matter: compute
would be late with what is to leave next.)
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from planner.plan.lanes import SAME_US
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.search.walk_parts import Compute, Move, SpareBytes


class _Ahead(NamedTuple):
    """How long compute will wait for room ahead of some slots, at most; see `waits_nowhere`."""

    first_slot: int
    most_us: list[float]


@dataclass(slots=True)
class Outlook:
    """Looks ahead from the anchor at which compute is.

    Attributes:
        waiting: Gaps that have begun, their copies to the host not issued.
        leaving: Those issued, in order of issue.
        away: Those given back, in order of next use.
    """

    problem: Problem
    spare: SpareBytes
    compute: Compute
    waiting: list[Move]
    leaving: deque[Move]
    away: list[Move]
    _ahead: _Ahead | None = None

    def may_wait(self, t: int) -> bool:
        """Whether compute may wait for the next bytes to leave; see [Note: Waits that are spread].

        Not if the next anchor finds them gone, nor while the lane back has enough to do.
        """
        compute = self.compute
        next_us = compute.next_anchor_us(t, ())
        left_us = next(self._departures())[1]
        if left_us <= next_us:
            return False
        wait_us, until_us = self._room_waits(t)
        if compute.h2d.free_us >= max(next_us, until_us) - SAME_US:
            return False
        return left_us <= compute.now_us + wait_us

    def waits_nowhere(self, t: int) -> bool:
        """Whether `may_wait` surely says no, at an anchor where nothing else happens.

        How long compute will wait for room at a later one does not change until something does: it
        is found once for many anchors.
        """
        if not self.leaving:
            return not self.waiting
        last_slot = t + SETTINGS.max_overtaken
        if self._ahead is None or last_slot > self._ahead.first_slot + SETTINGS.max_overtaken * 2:
            self._ahead = _Ahead(t + 1, self._most_waits_us(t + 1))
        first_slot, most_us = self._ahead
        if not most_us:
            return True
        compute = self.compute
        now_us = compute.elapsed_us[t] + compute.waited_us
        left_us = compute.d2h.ends_us[self.leaving[0].i]
        return left_us - now_us > most_us[min(last_slot - first_slot, len(most_us) - 1)] + SAME_US

    def forget(self) -> None:
        """Something has happened."""
        self._ahead = None

    def back_is_busy(self, t: int, awaited: Sequence[Move], begins: Sequence[Move]) -> bool:
        """Whether the lane back has enough to do until the next anchor issues more.

        Some gaps begin there. It may have to wait for room first.
        """
        busy_us = self.compute.h2d.free_us + SAME_US
        if busy_us < self.compute.next_anchor_us(t, awaited):
            return False
        missing_bytes = self.spare.missing_bytes(t + 1) + sum(m.gap.size_bytes for m in begins)
        for size_bytes, left_us in self._departures():
            if missing_bytes <= 0 or left_us > busy_us:
                break
            missing_bytes -= size_bytes
        return missing_bytes <= 0

    def room_is_short(self, t: int) -> bool:
        """Whether one of the next slots does not fit with all that is there now."""
        ahead = self.spare.over(t + 1, t + 1 + SETTINGS.max_overtaken)
        return bool(ahead.size) and self.spare.pending_bytes > ahead.min()

    def _departures(self) -> Iterator[tuple[int, float]]:
        """Yields bytes that have yet to leave, and about when they will have, in order."""
        for move in self.leaving:
            yield move.gap.size_bytes, self.compute.d2h.ends_us[move.i]
        left_us = max(self.compute.d2h.free_us, self.compute.arrival_us)
        for move in self.waiting:
            left_us += self.problem.d2h_us[move.i]
            yield move.gap.size_bytes, left_us

    def _room_waits(self, t: int) -> tuple[float, float]:
        """How long later anchors wait for room in all, and until when."""
        compute, ahead = self.compute, SETTINGS.max_overtaken
        missing_bytes = self.spare.pending_bytes - self.spare.over(t + 1, t + 1 + ahead)
        departures = self._departures()
        most_us, until_us = 0.0, compute.now_us
        given_bytes, left_us = 0, compute.now_us
        for n in np.flatnonzero(missing_bytes > 0).tolist():
            while given_bytes < missing_bytes[n]:
                size_bytes, left_us = next(departures, (0, left_us))
                if not size_bytes:
                    return most_us, until_us
                given_bytes += size_bytes
            wait_us = left_us - self._arrival_us(t, t + 1 + n)
            most_us = max(most_us, wait_us)
            until_us = left_us if wait_us > 0 else until_us
        return most_us, until_us

    def _most_waits_us(self, first_slot: int) -> list[float]:
        """For each slot from one on, how long it or one before it will wait for room."""
        compute = self.compute
        end_slot = first_slot + 2 * SETTINGS.max_overtaken + 1
        missing_bytes = self.spare.pending_bytes - self.spare.over(first_slot, end_slot)
        sizes_bytes, left_us = zip(*self._departures(), strict=True)
        # The copy to the host after which each slot has room; past the last one, none has.
        last = np.maximum.accumulate(np.searchsorted(np.cumsum(sizes_bytes), missing_bytes))
        last = last[last < len(left_us)]
        elapsed_us = np.array(compute.elapsed_us[first_slot : first_slot + len(last)])
        waits_us = np.array(left_us)[last] - elapsed_us - compute.waited_us
        waits_us[missing_bytes[: len(last)] <= 0] = 0.0
        most_us: list[float] = np.maximum.accumulate(waits_us).tolist()
        return most_us

    def _arrival_us(self, t: int, slot: int) -> float:
        """When compute comes to a later anchor if it waits nowhere."""
        elapsed_us = self.compute.elapsed_us
        return self.compute.now_us + elapsed_us[slot] - elapsed_us[t]
