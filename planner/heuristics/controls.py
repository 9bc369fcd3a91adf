"""Controls: simple selections with simple timing, to tell what a published rule adds.

Each storage leaves when its gap begins and is fetched one layer ahead, if there is room; bytes are
given back when their copy has ended or when they are missed.
"""

from collections.abc import Iterable

from planner.heuristics.eager_runtime import Intent, walk
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled
from planner.plan.plan import Boundary
from profiles.schema.profile import StorageKind


def _nothing(case: Case) -> Ruled:
    return Ruled(())


def _everything(case: Case) -> Ruled:
    return one_layer_ahead(case, range(len(case.gaps)))


def _all_activations(case: Case) -> Ruled:
    gaps = range(len(case.gaps))
    return one_layer_ahead(case, (i for i in gaps if case.kind(i) is StorageKind.ACTIVATION))


def _largest_first(case: Case) -> Ruled:
    order = case.largest_first(range(len(case.gaps)), lambda i: case.gaps[i].size_bytes)
    return one_layer_ahead(case, case.fewest_that_fit(order))


def _size_times_gap(case: Case) -> Ruled:
    order = case.largest_first(range(len(case.gaps)), case.size_times_idle)
    return one_layer_ahead(case, case.fewest_that_fit(order))


def one_layer_ahead(case: Case, chosen: Iterable[int]) -> Ruled:
    """Moves chosen gaps; each is fetched when the layer before its next user's begins."""
    count = case.step.slot_count

    def intent(i: int) -> Intent:
        gap = case.gaps[i]
        layer = case.step.layer_at(gap.next_use_slot % count)
        step_slot = gap.next_use_slot // count * count - (count if layer == 0 else 0)
        ahead_slot = step_slot + case.step.layers[layer - 1].first_slot
        return Intent(i, gap.first_slot, max(ahead_slot, gap.first_slot))

    return walk(case.problem, map(intent, chosen))


def just_in_time(case: Case, chosen: Iterable[int]) -> Ruled:
    """Moves chosen gaps; each is fetched when its copy alone would just be over in time."""
    return walk(
        case.problem,
        (Intent(i, case.gaps[i].first_slot, case.latest_start_slot(i)) for i in chosen),
    )


NOTHING, EVERYTHING, ALL_ACTIVATIONS, LARGEST_FIRST, SIZE_TIMES_GAP = (
    Baseline(
        name=name,
        source="",
        known_from=KnownFrom.CONTROL,
        simplified="",
        rule=rule,
        boundary=Boundary.PERIODIC,
    )
    for name, rule in (
        ("nothing", _nothing),
        ("everything", _everything),
        ("all activations", _all_activations),
        ("largest first", _largest_first),
        ("size times gap", _size_times_gap),
    )
)
