"""What a comparison says of one way to plan a step, and how long each may take."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.heuristics.heuristic import Heuristic
from planner.heuristics.host_adam import HOST_ADAM
from planner.heuristics.recomputing.catalog import RECOMPUTING
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from planner.heuristics.recomputing.dtr import DTR
from planner.heuristics.reference import Outcome, Reference
from planner.heuristics.task import Task
from planner.plan.plan import optimality_gap

Published = Heuristic | Recomputing | Reference
REFERENCES: tuple[Reference, ...] = (DTR, *HOST_ADAM)
REFERENCE = "reference"
"""A word beside figures of what no plan of ours can be."""
STOPPED = "stopped"
"""A word beside a figure that there was no time to look for further."""
FIGURES = (
    *("name", "fits", "step_us", "recompute_us", "stall_us", "moved_bytes", "swaps"),
    *("peak_bytes", "smallest_budget_bytes", "gap", "retimed_stall_us", "note"),
)
"""Columns of the table: attributes of `Row`."""
ABOUT = ("source", "known_from", "simplified")
"""More columns, with what is known of a heuristic."""


def never() -> bool:
    """There is time."""
    return False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to plan a step. Times and bytes are simulated; of a reference they are estimated.

    Attributes:
        name: Ours, or a heuristic's.
        moved_bytes: Bytes copied to the host per step.
        peak_bytes: Most bytes resident in any slot.
        fits: Whether that is within the budget.
        stall_us: Time compute waits per step, with its own timing.
        compute_us: Time of the step with nothing moved.
        bound_stall_us: No plan within the budget can wait less; of a row that runs ops again: no
            plan that may, with the recipes that ours are offered, can wait and recompute less. None
            of a row that is no plan.
        recompute_us: Time per step of the ops that are run again.
        retimed_stall_us: The same selection with our scheduler; None if not even all of it away
            from end to end meets the budget, or if it was not asked for.
        smallest_budget_bytes: The smallest budget its own rule meets; None if not asked for.
        note: What else there is to say, such as that there was no time for all of it.
    """

    name: str
    swaps: int
    moved_bytes: int
    peak_bytes: int
    fits: bool
    stall_us: float
    compute_us: float
    bound_stall_us: float | None
    recompute_us: float = 0.0
    retimed_stall_us: float | None = None
    smallest_budget_bytes: int | None = None
    note: str = ""

    @property
    def step_us(self) -> float:
        """Time of a step with what is run again, and its stall."""
        return self.compute_us + self.recompute_us + self.stall_us

    @property
    def gap(self) -> float | None:
        """How far from the best a plan that fits may be, as a share of the best step time."""
        if self.bound_stall_us is None or not self.fits:
            return None
        best_us = self.compute_us + self.bound_stall_us
        if best_us <= 0:
            return None
        return optimality_gap(self.step_us - best_us, best_us)


@dataclass(frozen=True, kw_only=True)
class NotApplicable:
    """A row without figures.

    Attributes:
        name: A reference's.
        note: Why there are none.
    """

    name: str
    note: str


class Clock:
    """Time for some baselines together, a fair share of what is left to each."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    def share(self, left: int) -> Stop:
        """Returns when the next of so many that are left is to stop.

        Most take far less than an equal share: one may take three.
        """
        now_s = time.monotonic()
        until_s = now_s + max(0.0, self._end_s - now_s) * min(1.0, 3 / max(1, left))
        return lambda: time.monotonic() >= until_s


def recomputing_rows(
    task: Task,
    bound_us: float,
    baselines: Sequence[Recomputing] = RECOMPUTING,
    clock: Clock | None = None,
) -> Iterator[Row]:
    """Yields one row per baseline that runs ops again, each as soon as it is done.

    Args:
        task: What they are given.
        bound_us: No plan that may recompute is below.
        baselines: Which ones.
        clock: How long they may take.
    """
    asked = RecomputeTask(task)
    for done, baseline in enumerate(baselines):
        stop = never if clock is None else clock.share(len(baselines) - done)
        yield recomputing_row(baseline.name, baseline.rule(asked, stop), bound_us)


def recomputing_row(name: str, choice: Choice, bound_us: float) -> Row:
    """Scores what a baseline that runs ops again makes of a step."""
    problem = choice.problem
    return Row(
        name=name,
        swaps=len(choice.swaps),
        moved_bytes=sum(problem.gaps[swap.gap].size_bytes for swap in choice.swaps),
        peak_bytes=choice.peak_bytes,
        fits=choice.over_bytes == 0,
        stall_us=choice.stall_us,
        compute_us=choice.task.base.problem.compute_us,
        recompute_us=choice.recompute_us,
        bound_stall_us=bound_us,
        note=STOPPED if choice.was_stopped else "",
    )


def reference_rows(
    task: Task, references: Sequence[Reference] = REFERENCES, clock: Clock | None = None
) -> Iterator[Row | NotApplicable]:
    """Yields one row per reference, each as soon as it is done; they take no bound.

    Args:
        task: What they are given.
        references: Which ones.
        clock: How long they may take.
    """
    for done, reference in enumerate(references):
        stop = never if clock is None else clock.share(len(references) - done)
        found = reference.rule(task, stop)
        if isinstance(found, str):
            yield NotApplicable(name=reference.name, note=found)
        else:
            yield _reference_row(reference.name, found, task.problem.budget_bytes)


def _reference_row(name: str, found: Outcome, budget_bytes: int) -> Row:
    return Row(
        name=name,
        swaps=found.copies,
        moved_bytes=found.moved_bytes,
        peak_bytes=found.peak_bytes,
        fits=found.peak_bytes <= budget_bytes,
        stall_us=found.stall_us,
        compute_us=found.compute_us,
        recompute_us=found.recompute_us,
        bound_stall_us=None,
        note=f"{REFERENCE}; {found.assumed}" if found.assumed else REFERENCE,
    )
