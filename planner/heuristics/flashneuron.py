"""FlashNeuron: activations in order of their first use, until the rest fits.

As coded in G10's simulator (platformxlab/G10, `scheduling_offload_flashneuron`), which was read;
published as FlashNeuron (Bae et al., FAST 2021). What is offloadable is an activation that is read
again after the loss. In order of first use they are offloaded until the rest fits into the memory
that permanent storages and the largest op leave. Each goes when its last idle time before the loss
begins, and comes back in backward order as memory permits.
"""

from planner.heuristics.eager_runtime import walk
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task


def _plan(task: Task) -> Swaps:
    storages = task.step.profile.storages
    permanent_bytes = sum(storage.size_bytes for storage in storages if storage.lives_on)
    line_bytes = task.problem.budget_bytes - permanent_bytes - _largest_op_bytes(task)
    if line_bytes <= 0:
        return ()
    activations = task.activations()
    left_bytes = sum(task.gaps[i].size_bytes for i in activations)
    offloaded = []
    for i in sorted(activations, key=lambda i: _first_use_op(task, i)):
        if left_bytes < line_bytes:
            break
        offloaded.append(i)
        left_bytes -= task.gaps[i].size_bytes
    return walk(task.problem, dict.fromkeys(offloaded, task.step.turn_slot))


def _largest_op_bytes(task: Task) -> int:
    """Bytes of all storages the hungriest op touches."""
    needs = [0] * len(task.step.profile.ops)
    for storage in task.step.profile.storages:
        for op in {use.op for use in storage.uses}:
            needs[op] += storage.size_bytes
    return max(needs, default=0)


def _first_use_op(task: Task, i: int) -> int:
    uses = task.step.profile.storages[task.gaps[i].storage].uses
    return uses[0].op if uses else 0


FLASHNEURON = Heuristic(
    name="FlashNeuron",
    source="Bae et al. 2021, FAST; as coded in platformxlab/G10",
    known_from=KnownFrom.CODE,
    simplified="to host memory instead of a disk; without compression",
    rule=_plan,
)
