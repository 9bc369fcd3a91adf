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

from profiles.schema.profile import Link


class Direction(Enum):
    """One way over the link."""

    D2H = "D2H"
    H2D = "H2D"


@dataclass(slots=True)
class Queued:
    """A copy that has not ended.

    Attributes:
        key: Names it.
        latency_us: Time left before any byte moves.
        moving_us: Time that its bytes still take if the other lane moves none.
        start_us: When its lane took it up; None if it has not.
    """

    key: int
    latency_us: float
    moving_us: float
    start_us: float | None = None

    def left_us(self, rate: float) -> float:
        """Returns how long until it begins to move bytes, or ends, at a share of its rate."""
        return self.latency_us if self.latency_us > 0 else self.moving_us / rate

    def run(self, span_us: float, rate: float, begin_us: float) -> bool:
        """Runs it at the head of its lane, for no longer than `left_us`; whether it has ended."""
        if self.start_us is None:
            self.start_us = begin_us
        ends = self.left_us(rate) <= span_us
        if self.latency_us > 0:
            self.latency_us = 0.0 if ends else self.latency_us - span_us
        else:
            self.moving_us = 0.0 if ends else self.moving_us - span_us * rate
        return self.latency_us <= 0 and self.moving_us <= 0


class Ended(NamedTuple):
    """A copy that has ended, and when its lane took it up."""

    direction: Direction
    key: int
    start_us: float


class JointQueues:
    """The queues, at one point of a time that only goes on.

    Args:
        share: What each lane keeps of its own rate while both move bytes.
    """

    def __init__(self, share: float) -> None:
        self.now_us = 0.0
        self.share = share
        self.outs: deque[Queued] = deque()
        self.backs: deque[Queued] = deque()

    def copy(self) -> "JointQueues":
        """Returns the same state, to be run on its own."""
        other = JointQueues(self.share)
        other.now_us = self.now_us
        for mine, others in ((self.outs, other.outs), (self.backs, other.backs)):
            others.extend(Queued(q.key, q.latency_us, q.moving_us, q.start_us) for q in mine)
        return other

    def queue(self, direction: Direction) -> deque[Queued]:
        """Returns the copies of one direction that have not ended, in order."""
        return self.outs if direction is Direction.D2H else self.backs

    def issue(self, direction: Direction, key: int, latency_us: float, moving_us: float) -> None:
        """Queues a copy."""
        self.queue(direction).append(Queued(key, latency_us, moving_us))

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self.outs and not self.backs

    def advance(self, until_us: float) -> None:
        """Runs up to a time."""
        while self.now_us < until_us:
            self.to_next_event(until_us)

    def to_next_event(self, until_us: float = math.inf) -> list[Ended]:
        """Runs until something changes: a copy begins to move bytes, or ends; no later than told.

        Returns:
            The copies that end then. With idle lanes and no time told, time stands still.
        """
        out = self.outs[0] if self.outs else None
        back = self.backs[0] if self.backs else None
        both_move = out and back and out.latency_us <= 0 and back.latency_us <= 0
        rate = self.share if both_move else 1.0
        begin_us = self.now_us
        span_us = min(
            until_us - begin_us,
            out.left_us(rate) if out else math.inf,
            back.left_us(rate) if back else math.inf,
        )
        ended = []
        if out and out.run(span_us, rate, begin_us):
            self.outs.popleft()
            ended.append(Ended(Direction.D2H, out.key, out.start_us or 0.0))
        if back and back.run(span_us, rate, begin_us):
            self.backs.popleft()
            ended.append(Ended(Direction.H2D, back.key, back.start_us or 0.0))
        if span_us < math.inf:
            self.now_us = until_us if span_us == until_us - begin_us else begin_us + span_us
        return ended


SAME_US = 1e-6
"""Two times this near, in microseconds, are one."""


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
    return JointLanes(link) if share_of_both(link) < 1 else IndependentLanes(link)


def share_of_both(link: Link) -> float:
    """Returns what each direction keeps of its own rate while both run; 1 if they do not meet."""
    if link.both_bytes_per_us is None:
        return 1.0
    return min(1.0, link.both_bytes_per_us / (link.d2h_bytes_per_us + link.h2d_bytes_per_us))


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


class JointLanes:
    """Lanes that share a rate while both run, so that a later copy can slow an earlier one.

    Args:
        link: The link; it has a rate for both directions together.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queues = JointQueues(share_of_both(link))
        self._copies: dict[Direction, list[Copy]] = {d: [] for d in Direction}
        self._last: dict[tuple[Direction, int], float] = {}

    def issue(self, direction: Direction, storage: int, load: LaneLoad, now_us: float) -> None:
        """Queues a copy."""
        self._advance(now_us)
        moving_us = load.link_bytes / rate_bytes_per_us(self._link, direction)
        self._queues.issue(direction, storage, load.latency_us, moving_us)

    def end_us(self, direction: Direction, storage: int, now_us: float) -> float:
        """Returns when the last copy issued for a storage ends if nothing is issued before."""
        self._advance(now_us)
        while any(queued.key == storage for queued in self._queues.queue(direction)):
            self._to_next_event(math.inf)
        return self._last.get((direction, storage), now_us)

    def copies(self, direction: Direction) -> tuple[Copy, ...]:
        """Returns every copy issued, in order; lets all of them end."""
        while not self._queues.idle:
            self._to_next_event(math.inf)
        return tuple(self._copies[direction])

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take on a lane of its own."""
        self._advance(now_us)
        return {
            (direction, queued.key): queued.latency_us + queued.moving_us
            for direction in Direction
            for queued in self._queues.queue(direction)
        }

    def _advance(self, now_us: float) -> None:
        while self._queues.now_us < now_us:
            self._to_next_event(now_us)

    def _to_next_event(self, until_us: float) -> None:
        for direction, storage, start_us in self._queues.to_next_event(until_us):
            copy = Copy(storage, start_us, self._queues.now_us)
            self._copies[direction].append(copy)
            self._last[direction, storage] = copy.end_us
