"""Rows to compare with that no plan can be: they decide while the step runs, or elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass

from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.choice import Stop
from planner.heuristics.task import Task


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What becomes of a step; estimated.

    Attributes:
        peak_bytes: Most bytes on the device.
        compute_us: Time of the ops of the step that the device still runs, each once.
        recompute_us: Time of those that it runs again.
        stall_us: Time it waits.
        moved_bytes: Bytes copied to the host.
        copies: How many copies.
        assumed: What the figures assume, in a few words; empty if nothing besides the profile.
    """

    peak_bytes: int
    compute_us: float
    recompute_us: float = 0.0
    stall_us: float = 0.0
    moved_bytes: int = 0
    copies: int = 0
    assumed: str = ""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published way to train that no plan of ours can be.

    Attributes:
        name: As it is printed.
        rule: What it makes of a step; a reason where it does not apply.
        source: Where it was published.
        known_from: How its rules became known to us.
        simplified: What is stated more simply here than there.
    """

    name: str
    rule: Callable[[Task, Stop], Outcome | str]
    source: str
    known_from: KnownFrom
    simplified: str
