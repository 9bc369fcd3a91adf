"""Drops one storage after another, whatever that costs, until nothing makes a step need less.

That is the way out where swaps do not meet a budget. In the fullest slot the storage is dropped
that takes the least time per byte to rebuild, of those whose absence helps there and makes no slot
need more than that one did. The order does not depend on the budget: the set that the smallest
budget needs is found again by whoever asks for that budget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from planner.ilp.deadline import Deadline
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import offers_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Dropped, rebuildings, recomputed
from planner.recompute.rewritten_problem import ProblemRewriter
from profiles.schema.profile import Profile


def relieving_sets(
    effects: StepEffects, problem: Problem, stop: Callable[[], bool]
) -> Iterator[Dropped]:
    """Yields sets of gaps to drop, each with one gap more than the one before.

    Args:
        effects: The step.
        problem: Its problem; its budgets do not matter.
        stop: Asked often; once it says so, there are no more.
    """
    rewriter = ProblemRewriter(effects, problem)
    whole = replace(problem, whole_gaps=rewriter.gaps, part_gaps=(), host_budget_bytes=None)
    order = offers_of(effects, whole).cheapest_first(rewriter.gaps)
    dropped: Dropped = frozenset()
    held = rewriter.resident_bytes(())
    while not stop():
        more = _one_more(rewriter, order, dropped, held, stop)
        if more is None:
            return
        dropped, held = more
        yield dropped


def relieved_step(effects: StepEffects, problem: Problem) -> Profile:
    """Returns the step that drops all that makes it need less."""
    limit = Deadline.within(SETTINGS.budget_time_limit_s)
    sets = [frozenset(), *relieving_sets(effects, problem, lambda: limit.over)]
    found = rebuildings(effects, sets[-1])
    assert found is not None
    return recomputed(effects, found).profile


def _one_more(
    rewriter: ProblemRewriter,
    order: Sequence[Gap],
    dropped: Dropped,
    held: tuple[int, ...],
    stop: Callable[[], bool],
) -> tuple[Dropped, tuple[int, ...]] | None:
    """A set with one gap more, and what each slot needs then; None if nothing helps."""
    most = max(held)
    t = held.index(most)
    for gap in order:
        if stop():
            return None
        if gap in dropped or not gap.first_slot <= t < gap.next_use_slot:
            continue
        more = dropped | {gap}
        found = rebuildings(rewriter.effects, more)
        if found is None:
            continue
        needs = rewriter.resident_bytes(found)
        if needs[t] < most and max(needs) <= most:
            return more, needs
    return None
