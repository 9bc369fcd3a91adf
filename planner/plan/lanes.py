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
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(slots=True)
class _Queued:
    """A copy that has not ended, with the time it still takes; `start_us` once it is taken up."""

    key: int
    latency_us: float
    moving_us: float
    start_us: float | None = None

    def left_us(self, rate: float) -> float:
        """How long until it begins to move bytes, or ends, at a share of its rate."""
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


class _Queues:
    """The queues of both lanes at one point of time; `share` as in `share_of_both`.

    The search's hot loop where lanes share a rate: each lane is written out.
    """

    def __init__(self, share: float, now_us: float = 0.0) -> None:
        self.share = share
        self.now_us = now_us
        self.outs: deque[_Queued] = deque()
        self.backs: deque[_Queued] = deque()

    def copy(self) -> "_Queues":
        other = _Queues(self.share, self.now_us)
        for mine, others in ((self.outs, other.outs), (self.backs, other.backs)):
            others.extend([_Queued(q.key, q.latency_us, q.moving_us, q.start_us) for q in mine])
        return other

    def of(self, direction: Direction) -> deque[_Queued]:
        return self.outs if direction is Direction.D2H else self.backs

    def to_next_event(self, until_us: float) -> tuple[_Queued | None, _Queued | None]:
        """Runs until a copy begins to move bytes or ends, or a time comes; returns what ends."""
        out = self.outs[0] if self.outs else None
        back = self.backs[0] if self.backs else None
        both_move = out and back and out.latency_us <= 0 and back.latency_us <= 0
        rate = self.share if both_move else 1.0
        begin_us = self.now_us
        span_us = until_us - begin_us
        if out:
            span_us = min(span_us, out.left_us(rate))
        if back:
            span_us = min(span_us, back.left_us(rate))
        out_ended = self.outs.popleft() if out and out.run(span_us, rate, begin_us) else None
        back_ended = self.backs.popleft() if back and back.run(span_us, rate, begin_us) else None
        self.now_us = until_us if span_us == until_us - begin_us else begin_us + span_us
        return out_ended, back_ended


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
                for again in sorted(here):
                    self._queue(again)
                return
        self._queue(issued)

    def foresee(self) -> None:
        """Runs a copy of the lanes until both are idle."""
        self._run(self._queues.copy(), math.inf)

    def end_us(self, direction: Direction, key: int, now_us: float) -> float:
        """Returns when the last copy of a name ends, as far as is known."""
        self._run(self._queues, now_us)
        if any(queued.key == key for queued in self._queues.of(direction)):
            self.foresee()
        return self._lane(direction).ends_us.get(key, now_us)

    def has_ended(self, direction: Direction, key: int, now_us: float) -> bool:
        """Whether the last copy of a name has ended, or was never issued."""
        self._run(self._queues, now_us)
        return all(queued.key != key for queued in self._queues.of(direction))

    def finish(self) -> None:
        """Lets every copy end."""
        self._run(self._queues, math.inf)

    def unfinished_us(self, now_us: float) -> Mapping[tuple[Direction, int], float]:
        """Returns how long each copy that has not ended would still take on a lane of its own."""
        self._run(self._queues, now_us)
        return {
            (direction, queued.key): queued.latency_us + queued.moving_us
            for direction in Direction
            for queued in self._queues.of(direction)
            if queued.latency_us + queued.moving_us > SAME_US
        }

    def _lane(self, direction: Direction) -> Lane:
        return self.d2h if direction is Direction.D2H else self.h2d

    def _queue(self, issued: _Issued) -> None:
        self._run(self._queues, issued.at_us)
        self._queues.of(issued.direction).append(_Queued(issued.key, *issued.load))

    def _run(self, queues: _Queues, until_us: float) -> None:
        """Runs queues up to a time, or until they are idle, and notes when what ends."""
        while queues.now_us < until_us and (queues.outs or queues.backs):
            out, back = queues.to_next_event(until_us)
            if out:
                self._end(self.d2h, out, queues, is_last=not queues.outs)
            if back:
                self._end(self.h2d, back, queues, is_last=not queues.backs)
        if until_us < math.inf:
            queues.now_us = max(queues.now_us, until_us)

    def _end(self, lane: Lane, ended: _Queued, queues: _Queues, *, is_last: bool) -> None:
        lane.ends_us[ended.key] = queues.now_us
        if is_last:
            lane.free_us = queues.now_us
        if queues is self._queues:
            lane.copies.append((ended.key, ended.start_us or 0.0, queues.now_us))


Lanes = IndependentLanes | JointLanes


def lanes_of(link: Link) -> Lanes:
    """Returns the lanes of a link, both idle."""
    share = share_of_both(link)
    return JointLanes(share) if share < 1 else IndependentLanes()
