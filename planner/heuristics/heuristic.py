"""What a baseline is."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled
from planner.plan.plan import Boundary


class KnownFrom(StrEnum):
    """How its rules became known to us."""

    CODE = "its code was read"
    PAPER = "its paper was read"
    OTHERS = "as others describe it"
    CONTROL = "a control, published nowhere"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A way to plan swaps.

    Attributes:
        name: As it is printed.
        source: Where it was published.
        known_from: How its rules became known to us.
        simplified: What is stated more simply here than there.
        rule: Its selection and its timing.
        boundary: Whether its trips may wrap round the step boundary; if not, what lives from step
            to step is resident when a step begins and when it ends.
    """

    name: str
    source: str
    known_from: KnownFrom
    simplified: str
    rule: Callable[[Case], Ruled]
    boundary: Boundary = Boundary.RESIDENT

    def plan(self, case: Case) -> Ruled:
        """Plans a task by the rule, with the gaps that the rule may use."""
        return self.rule(case.bounded(self.boundary))
