"""The lanes as the list scheduler sees them: when what it has issued so far will end.

[Note: An anchor's copies] At one anchor copies to the host are issued as compute arrives and copies
back after the releases (`planner.plan.schedule.ActionKind`), but the scheduler decides on some of
the former last. Where lanes do not meet that changes nothing for what was issued before. Where they
share a rate it does, if the lane was idle meanwhile: then what the anchor issues is played again,
in the order of time.
"""

import math
from typing import NamedTuple, Protocol

from planner.plan.lanes import Direction, JointQueues, share_of_both
from planner.problem.problem import Problem


class WalkLanes(Protocol):
    """Both lanes during a walk; copies are named by their gaps."""

    out_end_us: dict[int, float]
    """When each copy to the host ends, if no more is issued; of those issued so far."""
    in_end_us: dict[int, float]
    """When each copy back ends, likewise."""
    out_free_us: float
    """When the last copy to the host ends, if no more is issued."""
    in_free_us: float
    """When the last copy back ends, likewise."""

    def arrive(self, now_us: float) -> None:
        """Compute arrives at an anchor; nothing is issued before that any more."""

    def issue_out(self, i: int, at_us: float) -> None:
        """Queues gap i's copy to the host."""

    def issue_in(self, i: int, at_us: float) -> None:
        """Queues gap i's copy back."""


def walk_lanes(problem: Problem) -> WalkLanes:
    """Returns idle lanes."""
    share = share_of_both(problem.link)
    return JointWalkLanes(problem, share) if share < 1 else IndependentWalkLanes(problem)


class IndependentWalkLanes:
    """Lanes that do not slow each other: no end changes once it is known.

    Args:
        problem: For what copies take.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.out_end_us: dict[int, float] = {}
        self.in_end_us: dict[int, float] = {}
        self.out_free_us = self.in_free_us = 0.0

    def arrive(self, now_us: float) -> None:
        """Nothing changes."""

    def issue_out(self, i: int, at_us: float) -> None:
        """Queues gap i's copy to the host."""
        self.out_free_us = max(self.out_free_us, at_us) + self._problem.d2h_us[i]
        self.out_end_us[i] = self.out_free_us

    def issue_in(self, i: int, at_us: float) -> None:
        """Queues gap i's copy back."""
        self.in_free_us = max(self.in_free_us, at_us) + self._problem.h2d_us[i]
        self.in_end_us[i] = self.in_free_us


class _Issued(NamedTuple):
    """A copy that this anchor issues; sorts by time, then by order of decision."""

    at_us: float
    order: int
    gap: int
    latency_us: float
    moving_us: float
    direction: Direction


class JointWalkLanes:
    """Lanes that share a rate while both run: every copy issued may move the ends of others.

    Args:
        problem: For what copies take.
        share: What each lane keeps of its own rate while both run.
    """

    def __init__(self, problem: Problem, share: float) -> None:
        self._problem = problem
        self._queues = JointQueues(share)
        self._at_arrival = self._queues.copy()
        self._here: list[_Issued] = []
        self.out_end_us: dict[int, float] = {}
        self.in_end_us: dict[int, float] = {}
        self.out_free_us = self.in_free_us = 0.0

    def arrive(self, now_us: float) -> None:
        """Compute arrives at an anchor; nothing is issued before that any more."""
        self._queues.advance(now_us)
        self._at_arrival = self._queues.copy()
        self._here.clear()

    def issue_out(self, i: int, at_us: float) -> None:
        """Queues gap i's copy to the host."""
        was_idle = self.out_free_us < self._queues.now_us
        self._note(Direction.D2H, i, self._problem.d2h_us[i], at_us)
        if was_idle and at_us < self._queues.now_us:
            self._queues = self._at_arrival.copy()
            for issued in sorted(self._here):
                self._queue(issued)
        else:
            self._queue(self._here[-1])
        self._foresee()

    def issue_in(self, i: int, at_us: float) -> None:
        """Queues gap i's copy back."""
        self._note(Direction.H2D, i, self._problem.h2d_us[i], at_us)
        self._queue(self._here[-1])
        self._foresee()

    def _note(self, direction: Direction, i: int, copy_us: float, at_us: float) -> None:
        # Kernels pay no latency of the link; what was measured of them holds all they take.
        carried = self._problem.gaps[i].storage in self._problem.engines
        latency_us = 0.0 if carried else self._problem.link.latency_us
        order = len(self._here)
        self._here.append(_Issued(at_us, order, i, latency_us, copy_us - latency_us, direction))

    def _queue(self, issued: _Issued) -> None:
        self._run(self._queues, issued.at_us)
        self._queues.issue(issued.direction, issued.gap, issued.latency_us, issued.moving_us)

    def _foresee(self) -> None:
        """Runs a copy of the lanes until both are idle."""
        self._run(self._queues.copy(), math.inf)

    def _run(self, queues: JointQueues, until_us: float) -> None:
        """Runs lanes up to a time, or until they are idle, and notes when what ends."""
        while queues.now_us < until_us and not queues.idle:
            for direction, i, _ in queues.to_next_event(until_us):
                if direction is Direction.D2H:
                    self.out_end_us[i] = self.out_free_us = queues.now_us
                else:
                    self.in_end_us[i] = self.in_free_us = queues.now_us
        if queues.idle and until_us < math.inf:
            queues.advance(until_us)
