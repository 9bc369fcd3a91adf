"""Controls: simple selections with simple timing, to tell what a published rule adds.

Each storage leaves when its gap begins and is fetched one layer ahead, if there is room; bytes are
given back when their copy has ended or when they are missed.
"""

from collections.abc import Callable, Iterable

from planner.heuristics.eager_runtime import Intent, walk
from planner.heuristics.heuristic import Heuristic, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary
from profiles.schema.profile import StorageKind


def one_layer_ahead(task: Task, chosen: Iterable[int]) -> Swaps:
    """Moves chosen gaps; each is fetched when the layer before its next user's begins."""
    count = task.step.slot_count

    def intent(i: int) -> Intent:
        gap = task.gaps[i]
        layer = task.step.layer_at(gap.next_use_slot % count)
        step_slot = gap.next_use_slot // count * count - (count if layer == 0 else 0)
        ahead_slot = step_slot + task.step.layers[layer - 1].first_slot
        return Intent(i, gap.first_slot, max(ahead_slot, gap.first_slot))

    return walk(task.problem, map(intent, chosen))


def just_in_time(task: Task, chosen: Iterable[int]) -> Swaps:
    """Moves chosen gaps; each is fetched when its copy alone would just be over in time."""
    return walk(
        task.problem,
        (Intent(i, task.gaps[i].first_slot, task.latest_start_slot(i)) for i in chosen),
    )


def _nothing(task: Task) -> Iterable[int]:
    return ()


def _everything(task: Task) -> Iterable[int]:
    return range(len(task.gaps))


def _all_activations(task: Task) -> Iterable[int]:
    return (i for i in _everything(task) if task.kind(i) is StorageKind.ACTIVATION)


def _largest_first(task: Task) -> Iterable[int]:
    return task.problem.fewest_that_fit(task.largest_first(_everything(task)))


def _size_times_gap(task: Task) -> Iterable[int]:
    order = task.largest_first(_everything(task), task.problem.size_times_idle)
    return task.problem.fewest_that_fit(order)


def _control(name: str, select: Callable[[Task], Iterable[int]]) -> Heuristic:
    return Heuristic(
        name=name,
        rule=lambda task: one_layer_ahead(task, select(task)),
        boundary=Boundary.PERIODIC,
    )


NOTHING = _control("nothing", _nothing)
EVERYTHING = _control("everything", _everything)
ALL_ACTIVATIONS = _control("all activations", _all_activations)
LARGEST_FIRST = _control("largest first", _largest_first)
SIZE_TIMES_GAP = _control("size times gap", _size_times_gap)
