"""Warming up: steps run before recording until the optimizer's states exist and times settle."""

from collections.abc import Callable
from typing import NamedTuple

from profiles.recording.clocks import Clock
from profiles.schema.progress import Progress

SETTLED_WITHIN = 0.1
"""Two steps in a row within this share of the fastest so far: warming up makes steps faster by
more, and steps of an idle machine differ by less."""

MOST_EXTRA_STEPS = 8
"""A machine that others use may never settle; the profile then says so."""


class WarmUp(NamedTuple):
    """How a warm-up went.

    Attributes:
        steps: Steps it took.
        settled: Whether times had settled by then.
    """

    steps: int
    settled: bool


def warm_up(timed_step: Callable[[], float], *, least_steps: int, progress: Progress) -> WarmUp:
    """Runs steps until their times settle.

    Args:
        timed_step: Runs a step and returns its time in microseconds.
        least_steps: Steps run in any case.
        progress: Told of every step.
    """
    times_us: list[float] = []
    most_steps = least_steps + MOST_EXTRA_STEPS
    while len(times_us) < least_steps or not has_settled(times_us):
        if len(times_us) == most_steps:
            return WarmUp(most_steps, settled=False)
        progress("warming up", len(times_us), max(least_steps, len(times_us) + 1))
        times_us.append(timed_step())
    return WarmUp(len(times_us), settled=True)


def has_settled(times_us: list[float]) -> bool:
    """Whether the last two steps took about as long as the fastest."""
    limit_us = min(times_us, default=0.0) * (1 + SETTLED_WITHIN)
    return len(times_us) >= 2 and max(times_us[-2:]) <= limit_us


def step_timer(clock: Clock, step: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that runs a step and returns its time in microseconds."""

    def timed() -> float:
        clock.start()
        clock.stamp()
        step()
        clock.stamp()
        return sum(clock.intervals_us())

    return timed
