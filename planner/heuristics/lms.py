"""IBM's Large Model Support: TensorFlow's versions 1 and 2, and PyTorch's.

As in their code, which was read: IBM/tensorflow-large-model-support, branches tflmsv1 (`lms.py`; Le
et al. 2018, arXiv:1807.02037) and tflmsv2 (`lms.py`, `simulator.py`; Le et al., ISMM 2019), and
IBM/pytorch-large-model-support (patches 1.4 and 1.5, docs/Internals.md).

TensorFlow's write swaps into a static graph: they move tensors between a forward op and a backward
op that reads it, never variables. The copy to the host starts when the tensor is there; the
allocator waits for memory that is on its way out; control edges say from which op on the copy back
may start. PyTorch's has no plan: its allocator pages out what is idle when memory runs out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from planner.heuristics.eager_runtime import walk
from planner.heuristics.eviction import FreeBytes, evictions
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task
from planner.plan.plan import Boundary
from profiles.schema.profile import StorageKind

V1_LB_OPS = 1
V2_MEMORY_SHARE = 0.9
"""`TF_LMS_SIMULATOR_MEM_RATIO`: how much of what variables leave the auto-tuning may fill."""


SYNC_MODES = ((False, False), (True, False), (False, True), (True, True))
"""What version 2 may make compute wait for, in the order of its auto-tuning: (out, in)."""


class Tuning(NamedTuple):
    """Settings of version 2: `sync_mode` (out, in), `swapout_threshold` and `swapin_ahead`."""

    waits_out: bool
    waits_in: bool
    threshold_ops: int
    ahead_ops: int

    def fetch_slots(self, task: Task) -> dict[int, int]:
        """Returns what moves, and the slot from which on each copy back may start."""
        ahead_ops = 0 if self.waits_in else self.ahead_ops
        return {
            i: _in_slot(task, i, ahead_ops)
            for i in task.activations()
            if _distance_ops(task, i) > self.threshold_ops
        }


def _tensorflow_1(task: Task) -> Swaps:
    """Moves the first `n_tensors` in topological order, back `lb` = 1 op before the consumer."""
    chosen = task.problem.fewest_that_fit(task.activations())
    return walk(task.problem, {i: _in_slot(task, i, V1_LB_OPS) for i in chosen})


def _tensorflow_2(task: Task) -> Swaps:
    """Moves tensors whose edge is longer than a threshold, fetches them so many ops ahead.

    It can make compute wait for copies out, in, or both.
    """
    tuning = _tune(task)
    return walk(task.problem, tuning.fetch_slots(task), waits_out=tuning.waits_out)


def _in_slot(task: Task, i: int, ahead_ops: int) -> int:
    gap = task.gaps[i]
    consumer = task.step.op_of_use(gap.storage, gap.next_use_slot)
    slot = task.step.slot_of_op(consumer - ahead_ops)
    return min(max(slot, gap.first_slot), gap.next_use_slot)


def _distance_ops(task: Task, i: int) -> int:
    """From the tensor's last forward use to its first backward use."""
    gap = task.gaps[i]
    uses = task.step.profile.storages[gap.storage].uses
    before = [use.op for use in uses if task.step.slot_of_op(use.op) < gap.first_slot]
    return task.step.op_of_use(gap.storage, gap.next_use_slot) - max(before, default=-1)


def _tune(task: Task) -> Tuning:
    """The largest threshold that fits, then the largest lead, in the first mode where any fits.

    It simulates memory, never time: variables are set aside, a tenth of the rest is kept free, and
    a copy to the host takes one op.
    """
    tunings = (_tune_mode(task, *sync) for sync in SYNC_MODES)
    return next(filter(None, tunings), Tuning(True, True, 1, 1))


def _tune_mode(task: Task, waits_out: bool, waits_in: bool) -> Tuning | None:
    def fits(threshold_ops: int, ahead_ops: int) -> bool:
        return _fits_simulated(task, Tuning(waits_out, waits_in, threshold_ops, ahead_ops))

    op_count = len(task.step.profile.ops)
    threshold = _largest(lambda ops: fits(ops, 1), op_count)
    if threshold is None:
        return None
    ahead = _largest(lambda ops: fits(threshold, ops), op_count)
    return Tuning(waits_out, waits_in, threshold, ahead or 1)


def _largest(fits: Callable[[int], bool], high: int) -> int | None:
    """Binary search for the largest number that fits, as the auto-tuning does it."""
    low = 1
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits_simulated(task: Task, tuning: Tuning) -> bool:
    """Version 2's simulator: memory op by op, a copy to the host takes one op."""
    storages = task.step.profile.storages
    variables = sum(s.size_bytes for s in storages if s.kind is StorageKind.PARAMETER)
    budget = variables + V2_MEMORY_SHARE * (task.problem.budget_bytes - variables)
    free = FreeBytes(task.problem, {}, int(budget))
    for i, back_slot in tuning.fetch_slots(task).items():
        away_slot = task.gaps[i].first_slot + (0 if tuning.waits_out else 1)
        if away_slot < back_slot:
            free.give(task.gaps[i].size_bytes, away_slot, back_slot)
    return free.all_fit()


def _pytorch(task: Task) -> Swaps:
    """Pages out the idle storage that fits a failed allocation best; pages in on use.

    If none is large enough, several go, those idle longest first. A storage that was reclaimed at
    the same point of the last step is paged out as soon as it is idle, so that in later steps the
    copy has often ended by then. A storage is paged in when it is used, and compute waits at once:
    nothing is fetched ahead. Every class of storage moves, and what is paged out when a step ends
    is paged in when the next one uses it.
    """

    def best_fit(missing_bytes: int, idle: Sequence[int]) -> int:
        enough = [i for i in idle if task.gaps[i].size_bytes >= missing_bytes]
        if enough:
            return min(enough, key=lambda i: task.gaps[i].size_bytes)
        return min(idle, key=lambda i: task.gaps[i].first_slot)

    evicted = evictions(task, range(len(task.gaps)), best_fit)
    return (task.swap(i, slot, task.gaps[i].next_use_slot) for i, slot in evicted.items())


TFLMS_V1 = Heuristic(
    name="TFLMS v1",
    source="Le et al. 2018, arXiv:1807.02037; branch tflmsv1",
    known_from=KnownFrom.CODE,
    simplified="its n_tensors is the least that fits; topological order is the recorded order; a "
    "copy to the host begins after the last forward use",
    rule=_tensorflow_1,
)
TFLMS_V2 = Heuristic(
    name="TFLMS v2, auto-tuned",
    source="Le et al., ISMM 2019; branch tflmsv2",
    known_from=KnownFrom.CODE,
    simplified="levels are recorded ops; all consumers of a storage share one copy back, so "
    "swapin_groupby has nothing to do; ops run in recorded order, so none need be serialised",
    rule=_tensorflow_2,
)
PYTORCH_LMS = Heuristic(
    name="PyTorch LMS",
    source="IBM/pytorch-large-model-support, patch 1.5",
    known_from=KnownFrom.CODE,
    simplified="a steady step, in which every page-out is predicted; all of a slot's allocations "
    "are one request; no fragmentation",
    rule=_pytorch,
    boundary=Boundary.PERIODIC,
)
