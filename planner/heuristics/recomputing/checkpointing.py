"""Checkpointing: blocks keep what enters them, drop what is made inside, and run again in backward.

- Full: Chen et al. 2016 (arXiv:1604.06174), as `torch.utils.checkpoint` does it, which was read in
  torch 2.13: a block is run again when backward first asks for something of it, and up to the last
  op that makes something saved ("early stop").
- Fewest blocks: Megatron-LM's `--recompute-method block`: only the first blocks, as many as needed.
- Selective, by op: torchtitan's `selective_ac_option = "op"` (torchtitan/distributed/
  activation_checkpoint.py), as TorchTitan, Liang et al. 2024 (arXiv:2410.06511) has it: results of
  attention and of every second matrix product stay, everything else is run again.
- Selective, attention kept: TRL's `enable_selective_activation_checkpointing`: results of attention
  stay, everything else is run again.
- Selective, attention core: Megatron-LM's `--recompute-granularity selective`, Korthikanti et al.
  2022 (arXiv:2205.05198): only what attention makes between its projections is run again.
- With offload of what enters blocks: torchtune's OffloadActivations around checkpointed blocks
  (side stream, stash of five), and Unsloth's, which copies on the compute stream.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import lru_cache, partial

from planner.heuristics.heuristic import KnownFrom, Swaps
from planner.heuristics.recomputing.blocks import Blocks, blocks_at, depths, maker
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing, Stop
from planner.heuristics.task import Task, task_of
from planner.heuristics.torch_offload import MAX_FWD_STASH
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass

MIN_BYTES = 1024
NEARLY = 1.02
"""Blocks whose checkpointing needs 2% more memory are as good, and larger."""


Found = tuple[Blocks, Collection[int], Choice]
"""Blocks, which of them are run again, and what comes of it."""


@lru_cache(maxsize=3)
def _by_depth(task: RecomputeTask) -> tuple[Found, ...]:
    """Full checkpointing at every depth; the last block may stay, as its backward follows at once.

    The step of every depth is another one, so this is not done twice.
    """
    found: list[Found] = []
    seen: set[tuple[range, ...]] = set()
    for depth in depths(task):
        blocks = blocks_at(task, depth)
        if blocks.ranges not in seen:
            seen.add(blocks.ranges)
            for left_out in (0, 1):
                chosen = range(len(blocks.ranges) - left_out)
                found.append((blocks, chosen, blocks.checkpointed(chosen)))
    return tuple(found)


def best_depth(task: RecomputeTask) -> Found:
    """Returns the depth at which full checkpointing needs the least memory, then time."""
    return min(_by_depth(task), key=lambda found: (found[2].peak_bytes, found[2].recompute_us))


def layers_of(task: RecomputeTask) -> Blocks:
    """Returns the largest blocks that do nearly as well: the layers of a network of equal ones."""
    enough_bytes = NEARLY * best_depth(task)[2].peak_bytes
    return next(blocks for blocks, _, full in _by_depth(task) if full.peak_bytes <= enough_bytes)


def full(task: RecomputeTask, stop: Stop) -> Choice:
    """Checkpoints every block."""
    return best_depth(task)[2]


def _fewest(task: RecomputeTask, stop: Stop) -> Choice:
    blocks, chosen, everything = best_depth(task)
    low, high, best = 0, len(chosen), everything
    while low < high and not stop():
        middle = (low + high) // 2
        choice = blocks.checkpointed(range(middle))
        if choice.peak_bytes <= task.base.problem.budget_bytes:
            high, best = middle, choice
        else:
            low = middle + 1
    return best


def _selective(
    task: RecomputeTask, stop: Stop, *, classes: Collection[OpClass], every: int
) -> Choice:
    """Keeps what ops of some classes make; of matrix products all but every so-many-th."""
    blocks, chosen, _ = best_depth(task)
    kept: set[int] = set()
    for b in chosen:
        products = 0
        for op in blocks.ranges[b]:
            op_class = task.op_class(op)
            if op_class not in classes:
                continue
            if op_class is not OpClass.ATTENTION:
                products += 1
                if products % every == 0:
                    continue
            kept |= task.made_by(op)
    return blocks.checkpointed(chosen, kept)


def _attention_core(task: RecomputeTask, stop: Stop) -> Choice:
    """Drops what attention makes between its projections, but for what these read and write."""
    blocks, chosen, _ = best_depth(task)
    core = {op for b in chosen for op in _core_ops(task, blocks.ranges[b])}
    storages, dropped = task.base.step.profile.storages, set()
    for b in chosen:
        for gap in blocks.inside[b]:
            uses = {use.op for use in storages[gap.storage].uses if use.op in blocks.ranges[b]}
            if maker(task, gap) in core and uses <= core:
                dropped.add(gap)
    kept = {gap.storage for b in chosen for gap in blocks.inside[b] if gap not in dropped}
    return blocks.checkpointed(chosen, kept)


def _core_ops(task: RecomputeTask, ops: range) -> Iterator[int]:
    """From after the last projection in to before the projection out."""
    classes = [task.op_class(op) for op in ops]
    name = [task.base.step.profile.ops[op].name.split(".")[1:2] for op in ops]
    cores = [
        n
        for n, op_class in enumerate(classes)
        if op_class is OpClass.ATTENTION or name[n] == ["_softmax"]
    ]
    for n in cores:
        projections = [
            m
            for m, op_class in enumerate(classes)
            if op_class is OpClass.MATMUL and name[m] in (["mm"], ["addmm"])
        ]
        first = max((m for m in projections if m < n), default=-1) + 1
        end = min((m for m in projections if m > n), default=len(classes))
        yield from (ops[m] for m in range(first, end))


@lru_cache(maxsize=2)
def with_small_gaps(task: RecomputeTask, min_bytes: int) -> RecomputeTask:
    """Returns the same task for those who offload what our planner leaves alone."""
    problem, profile = task.base.problem, task.base.step.profile
    least_bytes = min(min_bytes, problem.min_size_bytes)
    return RecomputeTask(task_of(profile, problem.budget_bytes, problem.link, least_bytes))


def _offloading(task: RecomputeTask, stop: Stop, *, on_compute_stream: bool) -> Choice:
    blocks, chosen, _ = best_depth(task)
    # What can be moved besides makes no other depth the best.
    choice = replace(blocks, task=with_small_gaps(task, MIN_BYTES)).checkpointed(chosen)
    entering = {storage for one in choice.found for storage in one.recipe.found}

    def gaps(left: Task) -> list[tuple[int, int]]:
        return sorted(
            (left.gaps[i].first_slot, i)
            for i in left.activations()
            if left.gaps[i].storage in entering
        )

    def at_once(left: Task) -> Swaps:
        return [left.swap(i, first, left.gaps[i].next_use_slot) for first, i in gaps(left)]

    def stashed(left: Task) -> Swaps:
        ordered = gaps(left)
        return [
            left.swap(i, max(first, later), left.gaps[i].next_use_slot)
            for (first, i), (later, _) in zip(ordered, ordered[MAX_FWD_STASH:], strict=False)
        ]

    return choice.moving(at_once if on_compute_stream else stashed, one_stream=True)


BLOCKS = (
    "blocks are the modules of one depth, that at which it needs the least memory; random ops are "
    "run again from the state they had; ops of a block that nothing saved needs are not run again"
)
FULL = Recomputing(
    name="checkpointing",
    source="Chen et al. 2016, arXiv:1604.06174; torch.utils.checkpoint",
    known_from=KnownFrom.CODE,
    simplified=BLOCKS,
    rule=full,
)
FEWEST = Recomputing(
    name="checkpointing, fewest blocks",
    source="Megatron-LM, --recompute-method block",
    known_from=KnownFrom.OTHERS,
    simplified="the number of blocks is the least that fits; as for checkpointing otherwise",
    rule=_fewest,
)
TORCHTITAN_SELECTIVE = Recomputing(
    name="torchtitan selective, by op",
    source="Liang et al. 2024, arXiv:2410.06511; pytorch/torchtitan",
    known_from=KnownFrom.CODE,
    simplified="convolutions count as matrix products; the first product of a block stays, the "
    "second is run again, and so on; what is kept is kept only if something run again reads it",
    rule=partial(_selective, classes=COMPUTE_CLASSES, every=2),
)
TRL_SELECTIVE = Recomputing(
    name="TRL selective, attention kept",
    source="huggingface/trl, selective_activation_checkpointing",
    known_from=KnownFrom.OTHERS,
    simplified="as for checkpointing; without attention it is the same",
    rule=partial(_selective, classes=(OpClass.ATTENTION,), every=2),
)
MEGATRON_SELECTIVE = Recomputing(
    name="Megatron selective, attention core",
    source="Korthikanti et al. 2022, arXiv:2205.05198",
    known_from=KnownFrom.PAPER,
    simplified="the core reaches from the projections in to the projection out; fused attention "
    "keeps little inside",
    rule=_attention_core,
)
TORCHTUNE_CHECKPOINTS = Recomputing(
    name="torchtune checkpointing + offload",
    source="pytorch/torchtune, OffloadActivations with activation checkpointing",
    known_from=KnownFrom.CODE,
    simplified="as for checkpointing and for torchtune offload; what enters blocks is offloaded",
    rule=partial(_offloading, on_compute_stream=False),
)
UNSLOTH = Recomputing(
    name="Unsloth checkpointing + offload",
    source="unslothai/unsloth, gradient checkpointing 'unsloth'",
    known_from=KnownFrom.OTHERS,
    simplified="copies of what enters blocks are on the compute stream, which waits for them",
    rule=partial(_offloading, on_compute_stream=True),
)
CHECKPOINTING = (
    FULL,
    FEWEST,
    TORCHTITAN_SELECTIVE,
    TRL_SELECTIVE,
    MEGATRON_SELECTIVE,
    TORCHTUNE_CHECKPOINTS,
    UNSLOTH,
)
