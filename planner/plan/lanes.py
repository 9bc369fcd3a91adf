"""When copies start and end: the two lanes of a link on a simulated clock.

Each lane carries whole copies, first in first out; a copy takes the link's latency plus its bytes
over the rate. If the link has a rate for both directions together, two copies that run at the same
time share it in proportion to their own rates.

[Note: An anchor's copies] At one anchor copies to the host are issued as compute arrives and copies
back after the releases (`planner.plan.schedule.ActionKind`), but the list scheduler decides on some
of the former last. Where lanes do not meet that changes nothing for what was issued before. Where
they share a rate it does, if the lane was idle meanwhile: then what the anchor issues is played
again, in the order of time.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from profiles.schema.link import MethodRate
from profiles.schema.profile import Link

SAME_US = 1e-6
"""Two times this near, in microseconds, are one."""


class Direction(Enum):
    """One way over the link."""

    D2H = "D2H"
    H2D = "H2D"


class LaneLoad(NamedTuple):
    """What a copy puts on its lane.

    Attributes:
        latency_us: Time before any byte moves.
        moving_us: Time that its bytes then take if the other lane moves none.
    """

    latency_us: float
    moving_us: float


class Copy(NamedTuple):
    """One copy on a lane.

    Attributes:
        storage: Id of the storage, or whatever names the copy.
        start_us: When the lane takes it up.
        end_us: When its last byte has arrived.
    """

    storage: int
    start_us: float
    end_us: float


class Lane:
    """What is known of one direction's copies.

    Attributes:
        free_us: When the last copy issued ends, if no more is issued.
        ends_us: When the last copy of each name ends, likewise; of those issued so far.
        copies: Name, start and end of each copy whose end is certain, in order.
    """

    __slots__ = ("copies", "ends_us", "free_us")

    def __init__(self) -> None:
        self.free_us = 0.0
        self.ends_us: dict[int, float] = {}
        self.copies: list[tuple[int, float, float]] = []


def share_of_both(link: Link) -> float:
    """Returns what each direction keeps of its own rate while both run; 1 if they do not meet."""
    if link.both_bytes_per_us is None:
        return 1.0
    return min(1.0, link.both_bytes_per_us / (link.d2h_bytes_per_us + link.h2d_bytes_per_us))


def rate_bytes_per_us(of: Link | MethodRate, direction: Direction) -> float:
    """Returns the rate of one direction alone."""
    return of.d2h_bytes_per_us if direction is Direction.D2H else of.h2d_bytes_per_us


def link_load(link: Link, direction: Direction, size_bytes: int) -> LaneLoad:
    """Returns what a copy by the copy engine puts on its lane."""
    return LaneLoad(link.latency_us, size_bytes / rate_bytes_per_us(link, direction))


def same_unfinished(
    one: Mapping[tuple[Direction, int], float], other: Mapping[tuple[Direction, int], float]
) -> bool:
    """Whether two steps begin with the same copies under way."""
    return one.keys() == other.keys() and all(
        math.isclose(one[key], other[key], rel_tol=SAME_US, abs_tol=SAME_US) for key in one
    )


class IndependentLanes:
    """Lanes that do not slow each other: when a copy ends is known when it is issued.

    Time never goes back from call to call, but to the last arrival.
    """

    def __init__(self) -> None:
        self.d2h, self.h2d = Lane(), Lane()

    def arrive(self, now_us: float) -> None:
        """Compute arrives at an anchor: nothing is issued before that any more."""

    def issue(self, direction: Direction, key: int, load: LaneLoad, at_us: float) -> None:
        """Queues a copy."""
        lane = self.d2h if direction is Direction.D2H else self.h2d
        start_us = lane.free_us if lane.free_us > at_us else at_us
        lane.free_us = lane.ends_us[key] = end_us = start_us + (load.latency_us + load.moving_us)
        lane.copies.append((key, start_us, end_us))

    def foresee(self) -> None:
        """Brings the ends of both lanes up to date."""

    def end_us(self, direction: Direction, key: int, now_us: float) -> float:
        """Returns when the last copy of a name ends if nothing is issued before it has.

        A copy that was never issued has ended.
        """
        return (self.d2h if direction is Direction.D2H else self.h2d).ends_us.get(key, now_us)

    def has_ended(self, direction: Direction, key: int, now_us: float) -> bool:
        """Whether the last copy of a name has ended, or was never issued."""
        return self.end_us(direction, key, now_us) <= now_us

    def finish(self) -> None:
        """Lets every copy end."""

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take, on a lane of its own."""
        return {
            (direction, key): end_us - now_us
            for direction, lane in ((Direction.D2H, self.d2h), (Direction.H2D, self.h2d))
            for key, end_us in lane.ends_us.items()
            if end_us > now_us + SAME_US
        }


class _Queued(NamedTuple):
    """A copy that has not ended, as it was issued."""

    key: int
    latency_us: float
    moving_us: float


class _Queue:
    """One lane's queue; of its head, what is left and when the lane took it up."""

    __slots__ = ("copies", "latency_us", "moving_us", "start_us")

    def __init__(self) -> None:
        self.copies: deque[_Queued] = deque()
        self.latency_us = self.moving_us = self.start_us = 0.0

    def copy(self) -> "_Queue":
        other = _Queue()
        other.copies = self.copies.copy()
        other.latency_us, other.moving_us = self.latency_us, self.moving_us
        other.start_us = self.start_us
        return other

    def append(self, queued: _Queued, now_us: float) -> None:
        self.copies.append(queued)
        if len(self.copies) == 1:
            self.take_up(now_us)

    def take_up(self, now_us: float) -> None:
        _, self.latency_us, self.moving_us = self.copies[0]
        self.start_us = now_us

    def end(self, now_us: float) -> int:
        """Takes the head away; returns its key."""
        key = self.copies.popleft().key
        if self.copies:
            self.take_up(now_us)
        return key

    def loads_us(self) -> Iterator[tuple[int, float, float]]:
        """Yields the key of each copy, and the latency and the time to move that it has left."""
        for n, queued in enumerate(self.copies):
            yield queued if n else (queued.key, self.latency_us, self.moving_us)


class _Queues:
    """The queues of both lanes at one point of time; `share` as in `share_of_both`."""

    __slots__ = ("backs", "now_us", "outs", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self.now_us = 0.0
        self.outs, self.backs = _Queue(), _Queue()

    def copy(self) -> "_Queues":
        other = _Queues(self.share)
        other.now_us = self.now_us
        other.outs, other.backs = self.outs.copy(), self.backs.copy()
        return other

    def of(self, direction: Direction) -> _Queue:
        return self.outs if direction is Direction.D2H else self.backs

    def run(self, until_us: float, *, together: bool) -> Iterator[tuple[_Queue, int, float]]:
        """Runs up to a time, or until both are idle, or with `together` until one of them is.

        Yields what ends: lane, key, start.

        The search's hot loop where lanes share a rate.
        """
        outs, backs, share = self.outs, self.backs, self.share
        while self.now_us < until_us and (outs.copies or backs.copies):
            if together and not (outs.copies and backs.copies):
                return
            begin_us = self.now_us
            left_us = span_us = until_us - begin_us
            out, back = bool(outs.copies), bool(backs.copies)
            out_waits, back_waits = outs.latency_us > 0, backs.latency_us > 0
            meet = out and back and not out_waits and not back_waits
            rate = share if meet else 1.0
            out_us = back_us = math.inf
            if out:
                out_us = outs.latency_us if out_waits else outs.moving_us / rate
                span_us = min(span_us, out_us)
            if back:
                back_us = backs.latency_us if back_waits else backs.moving_us / rate
                span_us = min(span_us, back_us)
            self.now_us = until_us if span_us == left_us else begin_us + span_us
            for lane, runs, waits, end_us in (
                (outs, out, out_waits, out_us),
                (backs, back, back_waits, back_us),
            ):
                if not runs:
                    continue
                if waits:
                    lane.latency_us = 0.0 if end_us <= span_us else lane.latency_us - span_us
                else:
                    lane.moving_us = 0.0 if end_us <= span_us else lane.moving_us - span_us * rate
                if lane.latency_us <= 0 and lane.moving_us <= 0:
                    start_us = lane.start_us
                    yield lane, lane.end(self.now_us), start_us


class _Issued(NamedTuple):
    """A copy that an anchor has issued; sorts by time, then by order of decision."""

    at_us: float
    order: int
    direction: Direction
    key: int
    load: LaneLoad


class JointLanes:
    """Lanes that share a rate while both run: every copy issued may move the ends of others.

    They are used as `IndependentLanes` are.

    Args:
        share: What each lane keeps of its own rate while both run.
    """

    def __init__(self, share: float) -> None:
        self.d2h, self.h2d = Lane(), Lane()
        self._queues = _Queues(share)
        self._at_arrival: _Queues | None = None
        self._issued_here: list[_Issued] = []
        self._ahead: _Queues | None = None
        """The lanes when one of them will fall idle, with all that is queued by now."""

    def arrive(self, now_us: float) -> None:
        """Keeps the lanes as compute finds them at an anchor."""
        self._run(self._queues, now_us)
        self._at_arrival = self._queues.copy()
        self._issued_here.clear()

    def issue(self, direction: Direction, key: int, load: LaneLoad, at_us: float) -> None:
        """Queues a copy; see [Note: An anchor's copies]."""
        here = self._issued_here
        issued = _Issued(at_us, len(here), direction, key, load)
        was_idle = self._lane(direction).free_us < self._queues.now_us
        if self._at_arrival is not None:
            here.append(issued)
            if was_idle and at_us < self._queues.now_us:
                self._queues = self._at_arrival.copy()
                self._ahead = None
                for again in sorted(here):
                    self._queue(again)
                return
        self._queue(issued)

    def foresee(self) -> None:
        """Finds when all that is queued will end: until one lane is idle, then the other alone."""
        ahead = self._ahead = self._ahead or self._queues.copy()
        self._run(ahead, math.inf, together=True)
        for queue, lane in ((ahead.outs, self.d2h), (ahead.backs, self.h2d)):
            now_us = ahead.now_us
            for key, latency_us, moving_us in queue.loads_us():
                now_us = now_us + latency_us + moving_us
                lane.ends_us[key] = lane.free_us = now_us

    def end_us(self, direction: Direction, key: int, now_us: float) -> float:
        """Returns when the last copy of a name ends, as far as is known."""
        self._run(self._queues, now_us)
        if not self._has_left(direction, key):
            self.foresee()
        return self._lane(direction).ends_us.get(key, now_us)

    def has_ended(self, direction: Direction, key: int, now_us: float) -> bool:
        """Whether the last copy of a name has ended, or was never issued."""
        self._run(self._queues, now_us)
        return self._has_left(direction, key)

    def finish(self) -> None:
        """Lets every copy end."""
        self._run(self._queues, math.inf)

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take on a lane of its own."""
        self._run(self._queues, now_us)
        return {
            (direction, key): latency_us + moving_us
            for direction in Direction
            for key, latency_us, moving_us in self._queues.of(direction).loads_us()
            if latency_us + moving_us > SAME_US
        }

    def _has_left(self, direction: Direction, key: int) -> bool:
        return all(queued.key != key for queued in self._queues.of(direction).copies)

    def _lane(self, direction: Direction) -> Lane:
        return self.d2h if direction is Direction.D2H else self.h2d

    def _queue(self, issued: _Issued) -> None:
        queued = _Queued(issued.key, *issued.load)
        for queues in (self._queues, self._ahead):
            if queues is not None:
                self._run(queues, issued.at_us)
                queues.of(issued.direction).append(queued, queues.now_us)

    def _run(self, queues: _Queues, until_us: float, *, together: bool = False) -> None:
        """Runs queues up to a time, or until they are idle, and notes when what ends.

        If `together`, until one of them is.
        """
        for queue, key, start_us in queues.run(until_us, together=together):
            lane = self.d2h if queue is queues.outs else self.h2d
            lane.ends_us[key] = queues.now_us
            if not queue.copies:
                lane.free_us = queues.now_us
            if queues is self._queues:
                lane.copies.append((key, start_us, queues.now_us))
        if until_us < math.inf:
            queues.now_us = max(queues.now_us, until_us)


Lanes = IndependentLanes | JointLanes


def lanes_of(link: Link) -> Lanes:
    """Returns the lanes of a link, both idle."""
    share = share_of_both(link)
    return JointLanes(share) if share < 1 else IndependentLanes()
