"""Capuchin: what can be moved most nearly for free, fetched just in time, corrected by feedback.

As described in Capuchin (Peng et al., ASPLOS 2020), read in others' notes. A tensor's swap time is
its bytes over the link's rate; its free time is its idle time less the way out and the way back.
Tensors that are idle somewhere over the budget are taken by free time, longest first, until the
step fits. The copy back is triggered by the last access before the latest start that would be in
time; a tensor for which compute waited is triggered earlier in the next step, by 5% of its swap
time, step after step. One copy at a time runs each way. Where free time is negative Capuchin would
compare recomputing: see `planner.heuristics.recomputing.capuchin`.
"""

from collections.abc import Callable, Iterable

from planner.heuristics.eager_runtime import walk
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps, timeline, waits_us
from planner.heuristics.task import Task
from planner.problem.gaps import useful_gaps

FEEDBACK_SHARE = 0.05
"""A late tensor's trigger moves by this share of its swap time."""
FEEDBACK_STEPS = 40
"""Most steps of feedback; by then a trigger has moved by two swap times."""
PATIENCE = 5
"""Feedback ends when so many changes of triggers in a row were no faster than the best."""


def _never() -> bool:
    return False


def _plan(task: Task) -> Swaps:
    problem = task.problem
    at_peak = set(useful_gaps(task.gaps, problem.resident_bytes, problem.budget_bytes))
    candidates = [i for i, gap in enumerate(task.gaps) if gap in at_peak]
    order = task.largest_first(candidates, problem.free_us)
    return with_feedback(task, problem.fewest_that_fit(order))


def with_feedback(task: Task, chosen: Iterable[int], stop: Callable[[], bool] = _never) -> Swaps:
    """Repeats the step, each time with earlier triggers for what came late; returns the best."""
    problem = task.problem
    lead_us = {i: problem.h2d_us[i] for i in chosen}
    triggers = _triggers(task, lead_us)
    best = found = walk(problem, triggers)
    step = timeline(problem, found)
    best_us, since_best = step.total_stall_us, 0
    for _ in range(FEEDBACK_STEPS):
        late = waits_us(step, found)
        if not late or since_best == PATIENCE or stop():
            break
        lead_us |= {i: lead_us[i] + FEEDBACK_SHARE * problem.h2d_us[i] for i in late}
        moved = _triggers(task, lead_us)
        if moved == triggers:
            continue
        triggers, found = moved, walk(problem, moved)
        step, since_best = timeline(problem, found), since_best + 1
        if step.total_stall_us < best_us:
            best, best_us, since_best = found, step.total_stall_us, 0
    return best


def _triggers(task: Task, lead_us: dict[int, float]) -> dict[int, int]:
    return {i: task.latest_start_slot(i, us) for i, us in lead_us.items()}


CAPUCHIN = Heuristic(
    name="Capuchin",
    source="Peng et al. 2020, ASPLOS",
    known_from=KnownFrom.OTHERS,
    simplified="without its recomputation; a trigger at which there is no room waits for room; of "
    f"up to {FEEDBACK_STEPS} steps of feedback the best is kept",
    rule=_plan,
)
