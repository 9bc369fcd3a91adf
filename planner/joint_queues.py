"""Two first-in-first-out queues of copies that share a rate while both move bytes."""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from planner.direction import Direction


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
