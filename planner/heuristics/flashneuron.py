"""FlashNeuron: activations in order of their first use, until the rest fits.

As coded in G10's simulator (platformxlab/G10, `scheduling_offload_flashneuron`), which was read;
published as FlashNeuron (Bae et al., FAST 2021). What is offloadable is an activation that is read
again after the loss. In order of first use they are offloaded until the rest fits into the memory
that permanent storages and the largest op leave. Each goes when its last idle time before the loss
begins, and comes back in backward order as memory permits.
"""

from planner.heuristics.eager_runtime import Intent, walk
from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled


def _plan(case: Case) -> Ruled:
    line_bytes = case.problem.budget_bytes - case.step.permanent_bytes - _largest_op_bytes(case)
    if line_bytes <= 0:
        return Ruled(())
    activations = case.activations()
    left_bytes = sum(case.gaps[i].size_bytes for i in activations)
    offloaded = []
    for i in sorted(activations, key=lambda i: _first_use_op(case, i)):
        if left_bytes < line_bytes:
            break
        offloaded.append(i)
        left_bytes -= case.gaps[i].size_bytes
    turn = case.step.turn_slot
    return walk(case.problem, (Intent(i, case.gaps[i].first_slot, turn) for i in offloaded))


FLASHNEURON = Baseline(
    name="FlashNeuron",
    source="Bae et al. 2021, FAST; as coded in platformxlab/G10",
    known_from=KnownFrom.CODE,
    simplified="to host memory instead of a disk; without compression",
    rule=_plan,
)


def _largest_op_bytes(case: Case) -> int:
    """Bytes of all storages the hungriest op touches."""
    needs = [0] * len(case.step.profile.ops)
    for storage in case.step.profile.storages:
        for op in {use.op for use in storage.uses}:
            needs[op] += storage.size_bytes
    return max(needs, default=0)


def _first_use_op(case: Case, i: int) -> int:
    uses = case.step.profile.storages[case.gaps[i].storage].uses
    return uses[0].op if uses else 0
