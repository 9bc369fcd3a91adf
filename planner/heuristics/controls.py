"""Controls: simple selections with simple timing, to show what a published rule adds.

Each storage leaves when its gap begins and is fetched one layer ahead, if there is room; bytes are
given back when their copy has ended or when they are missed.
"""

from collections.abc import Callable, Iterable
from functools import partial

from planner.heuristics.eager_runtime import walk
from planner.heuristics.heuristic import Heuristic, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary
from profiles.schema.profile import StorageKind


def one_layer_ahead(task: Task, chosen: Iterable[int]) -> Swaps:
    """Moves chosen gaps; each is fetched when the layer before its next user's begins."""
    count = task.step.slot_count

    def fetch_slot(i: int) -> int:
        gap = task.gaps[i]
        layer = task.step.layer_at(gap.next_use_slot % count)
        step_slot = gap.next_use_slot // count * count - (count if layer == 0 else 0)
        ahead_slot = step_slot + task.step.layers[layer - 1].first_slot
        return max(ahead_slot, gap.first_slot)

    return walk(task.problem, {i: fetch_slot(i) for i in chosen})


def just_in_time(task: Task, chosen: Iterable[int]) -> Swaps:
    """Moves chosen gaps; each is fetched when its copy alone would just be over in time."""
    return walk(task.problem, {i: task.latest_start_slot(i) for i in chosen})


def _all_gaps(task: Task) -> Iterable[int]:
    return range(len(task.gaps))


def _activations(task: Task) -> Iterable[int]:
    return (i for i in _all_gaps(task) if task.kind(i) is StorageKind.ACTIVATION)


def _largest(task: Task) -> Iterable[int]:
    return task.problem.fewest_that_fit(task.largest_first(_all_gaps(task)))


def _largest_and_longest(task: Task) -> Iterable[int]:
    order = task.largest_first(_all_gaps(task), task.problem.size_times_idle)
    return task.problem.fewest_that_fit(order)


def _rule(task: Task, select: Callable[[Task], Iterable[int]]) -> Swaps:
    return one_layer_ahead(task, select(task))


CONTROLS = NOTHING, EVERYTHING, ALL_ACTIVATIONS, LARGEST_FIRST, SIZE_TIMES_GAP = tuple(
    Heuristic(name=name, rule=partial(_rule, select=select), boundary=Boundary.PERIODIC)
    for name, select in (
        ("nothing", lambda task: ()),
        ("everything", _all_gaps),
        ("all activations", _activations),
        ("largest first", _largest),
        ("size times gap", _largest_and_longest),
    )
)
