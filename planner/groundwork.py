"""What follows from a step and its budgets alone: found once, for all rounds of planning."""

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

from planner.ilp.beside import BoundBeside
from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.solver import NO_BOUND, StallBound, relaxed_bound
from planner.plan.plan import BoundSource
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import NO_OFFERS, Offers, offers_of
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from planner.recompute.rewritten_problem import ProblemRewriter
from planner.smallest_budget import Widest, widest_set
from profiles.schema.profile import Profile


class _Bound(Enum):
    """What is kept once it is proven."""

    SWAPS = auto()
    JOINT = auto()


@dataclass(frozen=True)
class Groundwork:
    """One step with nothing dropped, what follows from it alone, and when planning ends."""

    profile: Profile
    problem: Problem
    solver: SolverName
    limit: Deadline
    _bounds: dict[_Bound, StallBound] = field(default_factory=dict, repr=False)
    _beside: list[BoundBeside] = field(default_factory=list, repr=False)

    @cached_property
    def effects(self) -> StepEffects:
        """What each op of the step reads and writes."""
        return StepEffects(self.profile)

    @cached_property
    def offers(self) -> Offers:
        """What can be dropped and rebuilt."""
        return offers_of(self.effects, self.problem)

    @cached_property
    def placed(self) -> Offers:
        """The same, with where large storages may be rebuilt."""
        return placed_offers(self.effects, self.problem)

    @cached_property
    def rewriter(self) -> ProblemRewriter:
        """Makes the problems of the step with something dropped."""
        return ProblemRewriter(self.effects, self.problem)

    @cached_property
    def widest(self) -> Widest:
        """The set of swaps with the most room: always a way out, whatever is found in time."""
        return widest_set(self.problem, self.solver)

    @property
    def can_swap_alone(self) -> bool:
        """Whether the budget can be met with nothing dropped."""
        return self.problem.fits(self.widest.chosen)

    def swap_bound(self, deadline: Deadline) -> StallBound:
        """Returns what the relaxation says of swaps alone.

        Raises:
            SolverError: The solver is missing or failed.
        """
        return self._relaxed(_Bound.SWAPS, NO_OFFERS, deadline)

    def joint_bound(self, deadline: Deadline) -> StallBound:
        """Returns what it says of plans that drop and swap.

        Raises:
            SolverError: The solver is missing or failed.
        """
        return self._relaxed(_Bound.JOINT, self.offers, deadline)

    def placed_bound(self, cutoff_us: float) -> BoundBeside:
        """Has the ILP that knows where large storages may be rebuilt solved beside what is done
        meanwhile.

        One that was begun before goes on; else what costs more than `cutoff_us` is not looked for.
        """
        if not self._beside:
            deadline = self.limit.share(SETTINGS.placed_share)
            self._beside.append(
                BoundBeside(
                    self.problem, self.solver, deadline, cutoff_us=cutoff_us, offers=self.placed
                )
            )
        return self._beside[0]

    def close(self) -> None:
        """Ends what goes on beside."""
        for beside in self._beside:
            beside.end()

    def _relaxed(self, which: _Bound, offers: Offers, deadline: Deadline) -> StallBound:
        if self._bounds.get(which, NO_BOUND).source is not BoundSource.RELAXATION:
            # One that was stopped bounds nothing: it is tried once more.
            self._bounds[which] = relaxed_bound(self.problem, self.solver, deadline, offers)
        return self._bounds[which]
