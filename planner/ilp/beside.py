"""The ILP in a thread of its own, so that the search goes on meanwhile.

[Note: Beside the search]
HiGHS holds Python's lock only while it asks whether to end; the search is Python. So the two take
two cores. The model is built before the thread begins: nothing that the search reads or writes is
looked at from there. CBC cannot be asked to end, so it is not begun before its bound is wanted.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.model import build
from planner.ilp.solver import NO_BOUND, StallBound, proven_bound
from planner.ilp.variables import Goal
from planner.problem.problem import Problem
from planner.recompute.offers import Offers

POLL_S = 0.05
"""So often it is looked whether a wait is to end early."""


class BoundBeside:
    """The tight bound of `planner.ilp.solver.whole_bound`, while it is being proven and after."""

    def __init__(
        self,
        problem: Problem,
        solver: SolverName,
        deadline: Deadline,
        *,
        cutoff_us: float,
        offers: Offers,
    ) -> None:
        """Begins the proof.

        Args:
            problem: The step with nothing dropped.
            solver: Which solver.
            deadline: When the proof ends; what is proven by then holds.
            cutoff_us: What costs more is not looked for.
            offers: What can be dropped.
        """
        self._is_ended = False
        limit = replace(deadline, stop=lambda: self._is_ended or deadline.stop())
        model = build(problem, Goal.STALL, offers)
        self._prove = partial(proven_bound, model, solver, cutoff_us=cutoff_us)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swapplan-ilp")
        self._proof: Future[StallBound] | None = None
        if solver is SolverName.HIGHS:
            self._proof = self._thread.submit(self._prove, limit)

    def goes_on(self) -> bool:
        """Whether it is being proven now; asked often."""
        return self._proof is not None and not self._proof.done()

    def by(self, deadline: Deadline) -> StallBound:
        """Returns the bound once it is known; there is none if it is not by a deadline.

        Raises:
            SolverError: The solver is missing or failed.
        """
        if self._proof is None:
            return self._prove(deadline)
        while self.goes_on() and not deadline.over:
            wait([self._proof], min(POLL_S, deadline.left_s))
        return NO_BOUND if self.goes_on() else self._proof.result()

    def end(self) -> None:
        """Ends the proof, if it goes on, and its thread."""
        self._is_ended = True
        self._thread.shutdown()
