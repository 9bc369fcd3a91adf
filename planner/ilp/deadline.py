"""When a piece of work ends, and how good its best plan is meanwhile."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from planner.plan.plan import optimality_gap
from profiles.schema.units import time_text


class SolverName(StrEnum):
    """A solver PuLP can drive."""

    HIGHS = "highs"
    CBC = "cbc"


def never() -> bool:
    """Asks for no early end."""
    return False


@dataclass(frozen=True)
class Deadline:
    """When to stop and take the best so far.

    Attributes:
        at_s: At this time on the clock of `time.monotonic`.
        stop: Or as soon as this says so; asked often, so it must be quick.
    """

    at_s: float
    stop: Callable[[], bool] = never

    @classmethod
    def within(cls, seconds: float) -> "Deadline":
        """Returns the deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Wall time left; none if an early end was asked for."""
        return 0.0 if self.stop() else max(0.0, self.at_s - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.left_s <= 0

    def first(self, seconds: float) -> "Deadline":
        """Returns the end of the next so many seconds, or this one if that is earlier."""
        return replace(self, at_s=min(self.at_s, time.monotonic() + seconds))

    def share(self, share: float) -> "Deadline":
        """Returns the end of a part of the time left."""
        return replace(self, at_s=time.monotonic() + share * self.left_s)


@dataclass(frozen=True)
class Incumbent:
    """The best plan so far.

    Attributes:
        stall_us: Time it makes compute wait, by the scheduler's clock.
        bound_us: No plan can wait and recompute less in all, as far as is known by now.
        compute_us: Step time with nothing moved.
        recompute_us: Time of the ops that it runs again.
    """

    stall_us: float
    bound_us: float
    compute_us: float
    recompute_us: float = 0.0

    @property
    def optimality_gap(self) -> float:
        """From the bound to the plan, as a share of the best step time."""
        over_us = self.recompute_us + self.stall_us - self.bound_us
        return optimality_gap(over_us, self.compute_us + self.bound_us)

    def __str__(self) -> str:
        stall, bound = time_text(self.stall_us), time_text(self.bound_us)
        again = f"recompute {time_text(self.recompute_us)}, " if self.recompute_us else ""
        return f"{again}stall {stall}, bound {bound}, gap {self.optimality_gap:.2%}"


OnIncumbent = Callable[[Incumbent], None]
"""Called whenever a better plan or bound is known."""
