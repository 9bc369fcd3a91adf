"""TensorFlow Large Model Support, versions 1 and 2: swaps written into a static graph.

As in the code of IBM/tensorflow-large-model-support, which was read: branch tflmsv1 (`lms.py`; Le
et al. 2018, arXiv:1807.02037) and branch tflmsv2 (`lms.py`, `simulator.py`; Le et al., ISMM 2019).
Both move tensors between a forward op and a backward op that reads it, never variables. The copy to
the host starts when the tensor is there; TensorFlow's allocator waits for memory that is on its way
out; control edges say from which op on the copy back may start.

Version 1 moves the first `n_tensors` tensors in topological order; the copy back may start `lb` = 1
op before its consumer. Version 2 moves tensors whose edge is longer than a threshold, fetches them
so many ops ahead, and can make compute wait for copies out, in, or both. Its auto-tuning simulates
memory, never time: variables are set aside, a tenth of the rest is kept free, and a copy to the
host takes one op.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from planner.heuristics.eager_runtime import Intent, walk
from planner.heuristics.eviction import Room
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled

V1_LB_OPS = 1
V2_MEMORY_SHARE = 0.9
"""`TF_LMS_SIMULATOR_MEM_RATIO`: how much of what variables leave the auto-tuning may fill."""


class SyncMode(Enum):
    """What version 2 makes compute wait for: (copies out, copies in)."""

    NONE = (False, False)
    OUT = (True, False)
    IN = (False, True)
    BOTH = (True, True)


@dataclass(frozen=True)
class Tuning:
    """The settings of version 2.

    Attributes:
        sync: `sync_mode`.
        threshold_ops: `swapout_threshold`.
        ahead_ops: `swapin_ahead`.
    """

    sync: SyncMode
    threshold_ops: int
    ahead_ops: int


def _version_1(case: Case) -> Ruled:
    chosen = case.fewest_that_fit(case.activations())
    return walk(case.problem, (_intent(case, i, V1_LB_OPS) for i in chosen))


def _version_2(case: Case) -> Ruled:
    tuning = _tune(case)
    waits_out, waits_in = tuning.sync.value
    ahead_ops = 0 if waits_in else tuning.ahead_ops
    return walk(
        case.problem,
        (
            _intent(case, i, ahead_ops)._replace(is_sync=waits_out)
            for i in _over_threshold(case, tuning)
        ),
    )


TFLMS_V1 = Baseline(
    name="TFLMS v1",
    source="Le et al. 2018, arXiv:1807.02037; branch tflmsv1",
    known_from=KnownFrom.CODE,
    simplified="its n_tensors is the least that fits; topological order is the recorded order; a "
    "copy to the host begins after the last forward use",
    rule=_version_1,
)
TFLMS_V2 = Baseline(
    name="TFLMS v2, auto-tuned",
    source="Le et al., ISMM 2019; branch tflmsv2",
    known_from=KnownFrom.CODE,
    simplified="levels are recorded ops; all consumers of a storage share one copy back, so "
    "swapin_groupby has nothing to do; ops run in recorded order, so none need be serialised",
    rule=_version_2,
)


def _intent(case: Case, i: int, ahead_ops: int) -> Intent:
    gap = case.gaps[i]
    return Intent(i, gap.first_slot, _in_slot(case, i, ahead_ops))


def _in_slot(case: Case, i: int, ahead_ops: int) -> int:
    gap = case.gaps[i]
    consumer = case.step.op_of_use(gap.storage, gap.next_use_slot)
    slot = case.step.slot_of_op(consumer - ahead_ops)
    return min(max(slot, gap.first_slot), gap.next_use_slot)


def _distance_ops(case: Case, i: int) -> int:
    """From the tensor's last forward use to its first backward use."""
    gap = case.gaps[i]
    uses = case.step.profile.storages[gap.storage].uses
    before = [use.op for use in uses if case.step.slot_of_op(use.op) < gap.first_slot]
    return case.step.op_of_use(gap.storage, gap.next_use_slot) - max(before, default=-1)


def _over_threshold(case: Case, tuning: Tuning) -> Iterator[int]:
    for i in case.activations():
        if _distance_ops(case, i) > tuning.threshold_ops:
            yield i


def _tune(case: Case) -> Tuning:
    """The largest threshold that fits, then the largest lead, in the first mode where any fits."""
    op_count = len(case.step.profile.ops)
    for sync in SyncMode:

        def fits_threshold(ops: int, sync: SyncMode = sync) -> bool:
            return _fits_simulated(case, Tuning(sync, ops, 1))

        threshold = _largest(fits_threshold, 1, op_count)
        if threshold is None:
            continue

        def fits_ahead(ops: int, sync: SyncMode = sync, threshold: int = threshold) -> bool:
            return _fits_simulated(case, Tuning(sync, threshold, ops))

        return Tuning(sync, threshold, _largest(fits_ahead, 1, op_count) or 1)
    return Tuning(SyncMode.BOTH, 1, 1)


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """Binary search for the largest number that fits, as the auto-tuning does it."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits_simulated(case: Case, tuning: Tuning) -> bool:
    """Version 2's simulator: memory op by op, a copy to the host takes one op."""
    variables = case.step.parameter_bytes
    budget = variables + V2_MEMORY_SHARE * (case.problem.budget_bytes - variables)
    room = Room(case.problem, int(budget))
    waits_out, waits_in = tuning.sync.value
    for i in _over_threshold(case, tuning):
        gap = case.gaps[i]
        away_slot = gap.first_slot + (0 if waits_out else 1)
        back_slot = gap.next_use_slot if waits_in else _in_slot(case, i, tuning.ahead_ops)
        if away_slot < back_slot:
            room.give(gap.size_bytes, away_slot, back_slot)
    return room.all_fit()
