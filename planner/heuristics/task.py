"""What every baseline is given: the step, the gaps it may use, a link and a budget."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from planner.heuristics.step_view import StepView
from planner.plan.device_memory import slot_memory
from planner.plan.plan import Boundary
from planner.problem.gaps import Gap, candidate_gaps, default_min_size_bytes
from planner.problem.problem import Problem
from profiles.schema.profile import Link, Profile, StorageKind


@dataclass(frozen=True)
class Case:
    """One planning task.

    Attributes:
        step: The step.
        problem: The gaps, the link and the budget, as our own planner sees them. Gaps stay within
            the step unless it is bounded otherwise: few of the published rules say what to do
            across the step boundary, and most plan forward and backward alone.
    """

    step: StepView
    problem: Problem

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps, in order of their first slot."""
        return self.problem.whole_gaps

    def bounded(self, boundary: Boundary) -> "Case":
        """Returns the same task with the gaps there are if trips may wrap, or if they may not."""
        if boundary is self.problem.boundary:
            return self
        gaps = candidate_gaps(self.step.profile, self.problem.min_size_bytes, boundary)
        return replace(self, problem=replace(self.problem, whole_gaps=gaps, boundary=boundary))

    def with_budget(self, budget_bytes: int) -> "Case":
        """Returns the same task for another budget."""
        return replace(self, problem=replace(self.problem, budget_bytes=budget_bytes))

    def kind(self, i: int) -> StorageKind:
        """Returns the kind of a gap's storage."""
        return self.step.kinds[self.gaps[i].storage]

    def activations(self) -> tuple[int, ...]:
        """Returns the gaps in which an activation waits from forward to backward."""
        turn = self.step.turn_slot
        return tuple(
            i
            for i, gap in enumerate(self.gaps)
            if self.kind(i) is StorageKind.ACTIVATION
            and gap.first_slot <= turn <= gap.next_use_slot
        )

    def fewest_that_fit(self, order: Sequence[int]) -> tuple[int, ...]:
        """Returns the fewest gaps, taken in this order, that meet the budget; all if none do."""
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self.problem.fits(order[:middle]):
                high = middle
            else:
                low = middle + 1
        return tuple(order[:high])

    def size_times_idle(self, i: int) -> float:
        """Returns a gap's bytes times its idle time with nothing moved."""
        gap, elapsed_us = self.gaps[i], self.problem.elapsed_us
        return gap.size_bytes * (elapsed_us[gap.next_use_slot] - elapsed_us[gap.first_slot])

    def latest_start_slot(self, i: int) -> int:
        """Returns the last slot after a gap's first in which its copy back may start.

        From there on it is over by the next use if nothing else is copied and nothing waits; the
        slot of the next use if there is no such slot.
        """
        gap, elapsed_us = self.gaps[i], self.problem.elapsed_us
        latest_us = elapsed_us[gap.next_use_slot] - self.problem.h2d_us[i]
        slot = bisect_right(elapsed_us, latest_us) - 1
        return min(max(slot, gap.first_slot + 1), gap.next_use_slot)

    def largest_first(self, wanted: Sequence[int], key: Callable[[int], float]) -> tuple[int, ...]:
        """Returns gaps by falling key; equal ones stay in order of their first slot."""
        return tuple(sorted(wanted, key=key, reverse=True))


def case_of(
    profile: Profile,
    budget_bytes: int,
    link: Link | None = None,
    min_size_bytes: int | None = None,
) -> Case:
    """Returns the task of planning a step.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for; the profile's if None.
        min_size_bytes: Smaller storages stay; 1/1000 of the peak with nothing moved if None.
    """
    resident_bytes = tuple(slot.resident_bytes for slot in slot_memory(profile))
    if min_size_bytes is None:
        min_size_bytes = default_min_size_bytes(max(resident_bytes))
    problem = Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=resident_bytes,
        whole_gaps=candidate_gaps(profile, min_size_bytes, Boundary.RESIDENT),
        # Baselines know the copy engine alone.
        link=(link or profile.link).model_copy(update={"engines": ()}),
        boundary=Boundary.RESIDENT,
        min_size_bytes=min_size_bytes,
        budget_bytes=budget_bytes,
        host_budget_bytes=None,
    )
    return Case(StepView(profile), problem)
