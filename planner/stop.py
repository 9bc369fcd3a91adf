"""Limits of a piece of work: a deadline, and whoever asks for an early end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace


def never() -> bool:
    """Nobody asks for an early end."""
    return False


@dataclass(frozen=True)
class Limits:
    """When to stop and take the best so far.

    Attributes:
        deadline_s: At this time on the clock of `time.monotonic`.
        stop: Or as soon as this says so; asked often, so it must be quick.
    """

    deadline_s: float
    stop: Callable[[], bool] = never

    @classmethod
    def within(cls, seconds: float) -> "Limits":
        """Returns limits that end so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Wall time left; none if an early end was asked for."""
        return 0.0 if self.stop() else max(0.0, self.deadline_s - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.left_s <= 0

    def share(self, share: float) -> "Limits":
        """Returns limits of a part of the time left."""
        return replace(self, deadline_s=time.monotonic() + share * self.left_s)
