"""The smallest budget that a baseline meets by its own rule."""

from planner.baselines.baseline import Baseline
from planner.baselines.case import Case
from planner.baselines.ruled_trip import held_bytes

RESOLUTION = 1000
"""The budget is found to one part of the no-plan peak in so many."""


def smallest_budget_bytes(baseline: Baseline, case: Case) -> int:
    """Returns the smallest budget, to 1/1000 of the no-plan peak.

    First what the rule leaves when it is asked for the impossible, then bisection: a rule need not
    meet every budget above one it meets, so the answer is one it meets, next to one it does not.
    """
    case = case.bounded(baseline.boundary)
    problem = case.problem
    high = max(problem.resident_bytes)
    least = max(problem.floor_bytes(problem.whole_set))
    left = _peak_bytes(baseline, case, least)
    if left <= least:
        return least
    if left < high and _peak_bytes(baseline, case, left) <= left:
        high = left
    low = least
    while high - low > max(1, max(problem.resident_bytes) // RESOLUTION):
        middle = (low + high) // 2
        if _peak_bytes(baseline, case, middle) <= middle:
            high = middle
        else:
            low = middle
    return high


def _peak_bytes(baseline: Baseline, case: Case, budget_bytes: int) -> int:
    asked = case.with_budget(budget_bytes)
    return max(held_bytes(asked.problem, baseline.rule(asked).trips))
