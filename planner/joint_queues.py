"""Two first-in-first-out queues of copies that share a rate while both move bytes."""

import math
from collections import deque
from dataclasses import dataclass, replace
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
        self.queues: dict[Direction, deque[Queued]] = {d: deque() for d in Direction}

    def copy(self) -> "JointQueues":
        """Returns the same state, to be run on its own."""
        other = JointQueues(self.share)
        other.now_us = self.now_us
        for direction, queue in self.queues.items():
            other.queues[direction].extend(replace(queued) for queued in queue)
        return other

    def issue(self, direction: Direction, key: int, latency_us: float, moving_us: float) -> None:
        """Queues a copy."""
        self.queues[direction].append(Queued(key, latency_us, moving_us))

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not any(self.queues.values())

    def advance(self, until_us: float) -> None:
        """Runs up to a time."""
        while self.now_us < until_us:
            self.to_next_event(until_us)

    def to_next_event(self, until_us: float = math.inf) -> list[Ended]:
        """Runs until something changes: a copy begins to move bytes, or ends; no later than told.

        Returns:
            The copies that end then; after the last one of all, time stands still.
        """
        heads = [(d, queue[0]) for d, queue in self.queues.items() if queue]
        both_move = len(heads) == 2 and heads[0][1].latency_us <= 0 >= heads[1][1].latency_us
        rate = self.share if both_move else 1.0
        lefts_us = [
            head.latency_us if head.latency_us > 0 else head.moving_us / rate for _, head in heads
        ]
        span_us = min([until_us - self.now_us, *lefts_us])
        begin_us = self.now_us
        if math.isfinite(span_us):
            self.now_us = until_us if span_us == until_us - begin_us else begin_us + span_us
        ended = []
        for (direction, head), left_us in zip(heads, lefts_us, strict=True):
            if head.start_us is None:
                head.start_us = begin_us
            if head.latency_us > 0:
                head.latency_us = 0.0 if left_us <= span_us else head.latency_us - span_us
            else:
                head.moving_us = 0.0 if left_us <= span_us else head.moving_us - span_us * rate
            if head.latency_us <= 0 and head.moving_us <= 0:
                self.queues[direction].popleft()
                ended.append(Ended(direction, head.key, head.start_us))
        return ended
