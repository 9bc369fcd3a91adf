"""When copies start and end: the two lanes of a link on a simulated clock.

Each lane carries whole copies, first in first out; a copy takes the link's latency plus its bytes
over the rate. If the link has a rate for both directions together, two copies that run at the same
time share it in proportion to their own rates.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from profiles.profile import Link

SAME_US = 1e-6
"""Two times this near, in microseconds, are one."""


class Direction(Enum):
    """One way over the link."""

    D2H = "d2h"
    H2D = "h2d"


class Copy(NamedTuple):
    """One copy on a lane.

    Attributes:
        storage: Id of the storage.
        start_us: When the lane takes it up.
        end_us: When its last byte has arrived.
    """

    storage: int
    start_us: float
    end_us: float


class LaneLoad(NamedTuple):
    """What a copy puts on its lane.

    Attributes:
        latency_us: Time before any byte moves.
        link_bytes: What then moves at the lane's rate.
    """

    latency_us: float
    link_bytes: float


def link_load(link: Link, size_bytes: int) -> LaneLoad:
    """Returns what a copy by the copy engine puts on its lane."""
    return LaneLoad(link.latency_us, float(size_bytes))


class LaneClock(Protocol):
    """Both lanes of one link. Time never goes back from call to call."""

    def issue(self, direction: Direction, storage: int, load: LaneLoad, now_us: float) -> None:
        """Queues a copy."""

    def end_us(self, direction: Direction, storage: int, now_us: float) -> float:
        """Returns when the last copy issued for a storage ends if nothing is issued before it has.

        A copy that was never issued has ended.
        """

    def copies(self, direction: Direction) -> tuple[Copy, ...]:
        """Returns every copy issued, in order; lets all of them end."""

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take."""


def lane_clock(link: Link) -> LaneClock:
    """Returns a clock on which both lanes are idle."""
    both = link.both_bytes_per_us
    if both is None or both >= link.d2h_bytes_per_us + link.h2d_bytes_per_us:
        return IndependentLanes(link)
    return JointLanes(link, both)


def same_unfinished(
    one: Mapping[tuple[Direction, int], float], other: Mapping[tuple[Direction, int], float]
) -> bool:
    """Whether two steps begin with the same copies under way."""
    return one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], rel_tol=SAME_US, abs_tol=SAME_US) for key in one
    )


def rate_bytes_per_us(link: Link, direction: Direction) -> float:
    """Returns the rate of one direction alone."""
    return link.d2h_bytes_per_us if direction is Direction.D2H else link.h2d_bytes_per_us


class IndependentLanes:
    """Lanes that do not slow each other: when a copy ends is known when it is issued."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_us = dict.fromkeys(Direction, 0.0)
        self._copies: dict[Direction, list[Copy]] = {d: [] for d in Direction}
        self._last: dict[tuple[Direction, int], Copy] = {}

    def issue(self, direction: Direction, storage: int, load: LaneLoad, now_us: float) -> None:
        """Queues a copy."""
        start_us = max(self._free_us[direction], now_us)
        copy_us = load.latency_us + load.link_bytes / rate_bytes_per_us(self._link, direction)
        copy = Copy(storage, start_us, start_us + copy_us)
        self._free_us[direction] = copy.end_us
        self._copies[direction].append(copy)
        self._last[direction, storage] = copy

    def end_us(self, direction: Direction, storage: int, now_us: float) -> float:
        """Returns when the last copy issued for a storage ends."""
        copy = self._last.get((direction, storage))
        return now_us if copy is None else copy.end_us

    def copies(self, direction: Direction) -> tuple[Copy, ...]:
        """Returns every copy issued, in order."""
        return tuple(self._copies[direction])

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take."""
        return {
            key: copy.end_us - now_us
            for key, copy in self._last.items()
            if copy.end_us > now_us + SAME_US
        }


@dataclass
class _Queued:
    """A copy that has not ended."""

    storage: int
    latency_us: float
    left_bytes: float
    start_us: float | None = None


class JointLanes:
    """Lanes that share a rate while both run, so that a later copy can slow an earlier one.

    Args:
        link: The link.
        both_bytes_per_us: Rate of both directions together.
    """

    def __init__(self, link: Link, both_bytes_per_us: float) -> None:
        self._link = link
        self._slowed = both_bytes_per_us / (link.d2h_bytes_per_us + link.h2d_bytes_per_us)
        self._now_us = 0.0
        self._queues: dict[Direction, deque[_Queued]] = {d: deque() for d in Direction}
        self._copies: dict[Direction, list[Copy]] = {d: [] for d in Direction}
        self._last: dict[tuple[Direction, int], float] = {}

    def issue(self, direction: Direction, storage: int, load: LaneLoad, now_us: float) -> None:
        """Queues a copy."""
        self._advance(now_us)
        self._queues[direction].append(_Queued(storage, load.latency_us, load.link_bytes))

    def end_us(self, direction: Direction, storage: int, now_us: float) -> float:
        """Returns when the last copy issued for a storage ends if nothing is issued before."""
        self._advance(now_us)
        while any(queued.storage == storage for queued in self._queues[direction]):
            self._to_next_event(math.inf)
        return self._last.get((direction, storage), now_us)

    def copies(self, direction: Direction) -> tuple[Copy, ...]:
        """Returns every copy issued, in order; lets all of them end."""
        while any(self._queues.values()):
            self._to_next_event(math.inf)
        return tuple(self._copies[direction])

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take on a lane of its own."""
        self._advance(now_us)
        return {
            (direction, queued.storage): queued.latency_us
            + queued.left_bytes / rate_bytes_per_us(self._link, direction)
            for direction, queue in self._queues.items()
            for queued in queue
        }

    def _advance(self, now_us: float) -> None:
        while self._now_us < now_us:
            self._to_next_event(now_us)

    def _to_next_event(self, until_us: float) -> None:
        """Runs both lanes until something changes: a copy begins to move bytes, or ends."""
        heads = {d: queue[0] for d, queue in self._queues.items() if queue}
        moving = sum(head.latency_us <= 0 for head in heads.values())
        share = self._slowed if moving == len(Direction) else 1.0
        rates = {d: share * rate_bytes_per_us(self._link, d) for d in heads}
        left_us = {
            d: head.latency_us if head.latency_us > 0 else head.left_bytes / rates[d]
            for d, head in heads.items()
        }
        step_us = min([until_us - self._now_us, *left_us.values()])
        for direction, head in heads.items():
            if head.start_us is None:
                head.start_us = self._now_us
            ends = left_us[direction] <= step_us
            if head.latency_us > 0:
                head.latency_us = 0.0 if ends else head.latency_us - step_us
            else:
                head.left_bytes = 0.0 if ends else head.left_bytes - step_us * rates[direction]
        self._now_us = until_us if step_us == until_us - self._now_us else self._now_us + step_us
        for direction, head in heads.items():
            if head.latency_us <= 0 and head.left_bytes <= 0:
                self._end(direction)

    def _end(self, direction: Direction) -> None:
        head = self._queues[direction].popleft()
        assert head.start_us is not None
        copy = Copy(head.storage, head.start_us, self._now_us)
        self._copies[direction].append(copy)
        self._last[direction, head.storage] = copy.end_us
