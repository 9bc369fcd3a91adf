"""What every heuristic is given: the step, the gaps it may use, a link and a budget."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from planner.heuristics.step_view import StepView
from planner.plan.plan import Boundary
from planner.problem.gaps import Gap, candidate_gaps
from planner.problem.problem import Problem, problem_of
from planner.problem.timed_swap import TimedSwap
from profiles.schema.profile import Link, Profile, StorageKind


@dataclass(frozen=True)
class Task:
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

    def bounded(self, boundary: Boundary) -> "Task":
        """Returns the same task with the gaps there are if swaps may wrap, or if they may not."""
        if boundary is self.problem.boundary:
            return self
        gaps = candidate_gaps(self.step.profile, self.problem.min_size_bytes, boundary)
        return replace(self, problem=replace(self.problem, whole_gaps=gaps, boundary=boundary))

    def with_budget(self, budget_bytes: int) -> "Task":
        """Returns the same task for another budget."""
        return replace(self, problem=replace(self.problem, budget_bytes=budget_bytes))

    def kind(self, i: int) -> StorageKind:
        """Returns the kind of a gap's storage."""
        return self.step.profile.storages[self.gaps[i].storage].kind

    def activations(self) -> tuple[int, ...]:
        """Returns the gaps in which an activation waits from forward to backward."""
        turn = self.step.turn_slot
        return tuple(
            i
            for i, gap in enumerate(self.gaps)
            if self.kind(i) is StorageKind.ACTIVATION
            and gap.first_slot <= turn <= gap.next_use_slot
        )

    def swap(
        self,
        i: int,
        release_slot: int,
        swap_in_slot: int,
        *,
        swap_out_slot: int | None = None,
        await_slot: int | None = None,
    ) -> TimedSwap:
        """Returns the swap of a gap, over all of it unless other anchors are named."""
        gap = self.gaps[i]
        return TimedSwap(
            gap=i,
            storage=gap.storage,
            swap_out_slot=gap.first_slot if swap_out_slot is None else swap_out_slot,
            release_slot=release_slot,
            swap_in_slot=swap_in_slot,
            await_slot=gap.next_use_slot if await_slot is None else await_slot,
        )

    def latest_start_slot(self, i: int, lead_us: float | None = None) -> int:
        """Returns the last slot after a gap's first in which its copy back may start.

        It is so long before the next use, without stalls; as long as the copy alone takes if None.
        The slot of the next use if there is no such slot.
        """
        gap, elapsed_us = self.gaps[i], self.problem.elapsed_us
        lead_us = self.problem.h2d_us[i] if lead_us is None else lead_us
        latest_us = elapsed_us[gap.next_use_slot] - lead_us
        slot = bisect_right(elapsed_us, latest_us) - 1
        return min(max(slot, gap.first_slot + 1), gap.next_use_slot)

    def largest_first(
        self, wanted: Iterable[int], key: Callable[[int], float] | None = None
    ) -> tuple[int, ...]:
        """Returns gaps by falling key, or size; equal ones stay in the order given."""
        return tuple(sorted(wanted, key=key or (lambda i: self.gaps[i].size_bytes), reverse=True))


def task_of(
    profile: Profile,
    budget_bytes: int,
    link: Link | None = None,
    min_size_bytes: int | None = None,
) -> Task:
    """Returns the task of planning a step.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for; the profile's if None.
        min_size_bytes: Smaller storages stay; 1/1000 of the peak with nothing moved if None.
    """
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        # The rules know the copy engine alone.
        link=(link or profile.link).model_copy(update={"engines": ()}),
        min_size_bytes=min_size_bytes,
        boundary=Boundary.RESIDENT,
        every_gap=True,
    )
    return Task(StepView(profile), problem)
