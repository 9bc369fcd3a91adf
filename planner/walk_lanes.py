"""The lanes as the list scheduler sees them: when what it has issued so far will end.

[Note: An anchor's copies] At one anchor copies to the host are issued as compute arrives and copies
back after the releases (`planner.schedule.ActionKind`), but the scheduler decides on some of the
former last. Where lanes do not meet that changes nothing for what was issued before. Where they
share a rate it does: so what one anchor issues is kept apart until the next one, and played again
in the order of time with every copy that is added.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from planner.direction import Direction
from planner.joint_queues import JointQueues
from planner.lane_clock import share_of_both
from planner.problem import Problem


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
    """A copy that the last anchor issues; sorts by time, then by order of decision."""

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
        self._settled = JointQueues(share)
        self._here: list[_Issued] = []
        self._ends_us: Mapping[Direction, dict[int, float]] = {d: {} for d in Direction}
        self.out_end_us = self._ends_us[Direction.D2H]
        self.in_end_us = self._ends_us[Direction.H2D]
        self.out_free_us = self.in_free_us = 0.0

    def arrive(self, now_us: float) -> None:
        """What the anchor before issued is settled."""
        for issued in sorted(self._here):
            self._settled.advance(issued.at_us)
            _queue(self._settled, issued)
        self._here.clear()
        self._settled.advance(now_us)

    def issue_out(self, i: int, at_us: float) -> None:
        """Queues gap i's copy to the host."""
        self._issue(Direction.D2H, i, self._problem.d2h_us[i], at_us)

    def issue_in(self, i: int, at_us: float) -> None:
        """Queues gap i's copy back."""
        self._issue(Direction.H2D, i, self._problem.h2d_us[i], at_us)

    def _issue(self, direction: Direction, i: int, copy_us: float, at_us: float) -> None:
        # Kernels pay no latency of the link; what was measured of them holds all they take.
        carried = self._problem.gaps[i].storage in self._problem.engines
        latency_us = 0.0 if carried else self._problem.link.latency_us
        order = len(self._here)
        self._here.append(_Issued(at_us, order, i, latency_us, copy_us - latency_us, direction))
        self._foresee()

    def _foresee(self) -> None:
        """Runs a copy of the lanes until both are idle, and notes when what ends."""
        queues = self._settled.copy()
        for issued in sorted(self._here):
            while queues.now_us < issued.at_us:
                self._note(queues, issued.at_us)
            _queue(queues, issued)
        while not queues.idle:
            self._note(queues, math.inf)

    def _note(self, queues: JointQueues, until_us: float) -> None:
        for direction, i, _ in queues.to_next_event(until_us):
            self._ends_us[direction][i] = queues.now_us
            if direction is Direction.D2H:
                self.out_free_us = queues.now_us
            else:
                self.in_free_us = queues.now_us


def _queue(queues: JointQueues, issued: _Issued) -> None:
    queues.issue(issued.direction, issued.gap, issued.latency_us, issued.moving_us)
