"""SuperNeurons with its cheap layers: they are dropped and recomputed segment by segment.

As described by Wang et al. (PPoPP 2018, section 3.4), read in others' notes. Convolutions (here
matrix products and attention as well) are checkpoints; what the cheap layers between two of them
make (pooling, activation, normalization, dropout) is dropped in forward. In backward a segment is
recomputed at once for all of its layers if that takes no more memory than the largest layer needs
anyway ("speed-centric"), else layer by layer from the checkpoint ("memory-centric"). What is left
is for the tensor cache: nothing moves while it fits (see `planner.heuristics.evictors`).
"""

from dataclasses import replace

from planner.heuristics.evictors import SUPERNEURONS
from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.blocks import cut_at, maker
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop


def _plan(task: RecomputeTask, stop: Stop) -> Choice:
    heavy = [op for op in range(task.turn_op) if task.base.step.heavy_us[op] > 0]
    segments = replace(cut_at(task, heavy), uncounted=frozenset(heavy))
    checkpoints = {
        gap.storage for gaps in segments.inside for gap in gaps if maker(task, gap) in heavy
    }
    largest_bytes = _largest_layer_bytes(task)
    too_large = {
        b
        for b, gaps in enumerate(segments.inside)
        if sum(g.size_bytes for g in gaps if g.storage not in checkpoints) > largest_bytes
    }
    choice = segments.checkpointed(range(len(segments.ranges)), checkpoints, one_by_one=too_large)
    return choice.moving(SUPERNEURONS.rule)


def _largest_layer_bytes(task: RecomputeTask) -> int:
    """The most that one op reads and writes: SuperNeurons' l_peak."""
    storages = task.base.step.profile.storages
    return max(
        sum(storages[s].size_bytes for s in does.reads | does.writes) for does in task.effects.ops
    )


SUPERNEURONS_RECOMPUTE = Recomputing(
    name="SuperNeurons, with recomputation",
    source="Wang et al. 2018, PPoPP",
    known_from=KnownFrom.OTHERS,
    simplified="layers are ops; what cheap layers of other segments read stays; "
    "matrix products count as convolutions; copies of what is left as for SuperNeurons",
    rule=_plan,
)
