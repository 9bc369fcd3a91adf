"""Ways to offload activations that come with PyTorch and its frameworks.

These are torch's compiler pass, torchtitan, torchtune, and DeepSpeed's DeepCompile. All but the
last time their copies without a look at memory.
"""

from collections import deque
from functools import partial

from planner.heuristics.eviction import FreeBytes
from planner.heuristics.heuristic import Heuristic, KnownFrom, Swaps
from planner.heuristics.task import Task

MAX_FWD_STASH = 5
DEEPCOMPILE_MIN_BYTES = 5 * 2**20
DEEPCOMPILE_BUDGET_SHARE = 0.9


def _compiler_pass(task: Task, *, sink_wait: bool) -> Swaps:
    """The asynchronous activation-offload pass of torch 2.13, with prefetch switched on.

    As in torch 2.13's `_functorch/_activation_offloading`, which was read. The caller says what to
    offload; here that is every activation that backward reads. Forward: the copy out follows the
    last use, and the wait that frees the bytes follows the copy at once, or, with `sink_wait`, all
    waits stand at the end of the forward graph. One stream carries both directions.
    """
    reload_slots = _reload_slots(task)
    for i in task.activations():
        release_slot = task.step.turn_slot if sink_wait else task.gaps[i].first_slot
        # The op that reads it may come some anchors after the one at which it has to be there.
        next_use_slot = task.gaps[i].next_use_slot
        if release_slot < next_use_slot:
            in_slot = min(max(reload_slots[i], release_slot + 1), next_use_slot)
            yield task.swap(i, release_slot, in_slot)


def _reload_slots(task: Task) -> dict[int, int]:
    """`reorder_for_prefetch`: where each reload comes to stand.

    Walking the backward graph from its end, the time of each compute node is charged to the reload
    at the head of a queue, and a reload is placed where its time is covered; what is left stands at
    the beginning.
    """
    step, problem = task.step, task.problem
    first_users: dict[int, list[int]] = {}
    for i in task.activations():
        gap = task.gaps[i]
        first_users.setdefault(step.op_of_use(gap.storage, gap.next_use_slot), []).append(i)
    queue: deque[int] = deque()
    remaining_us: dict[int, float] = {}
    placed: dict[int, int] = {}
    for op in reversed(range(len(step.profile.ops))):
        slot = step.profile.ops[op].slot
        if slot < step.turn_slot:
            break
        if queue:
            remaining_us[queue[0]] -= step.heavy_us[op]
            if remaining_us[queue[0]] <= 0:
                placed[queue.popleft()] = slot
        for i in first_users.get(op, ()):
            queue.append(i)
            remaining_us[i] = problem.h2d_us[i]
    return dict.fromkeys(task.activations(), step.turn_slot) | placed


def _torchtitan(task: Task) -> Swaps:
    """The largest activations, one layer ahead, one layer behind.

    As merged in pytorch/torchtitan, which was read. Of the activations that backward reads, the
    largest are offloaded first, up to a cap on host bytes; those of the last forward layer are not.
    Compute waits for a layer's copies at the end of the layer after it (`defer_n_layers` = 1), and
    the copies back are issued when the layer before their user's begins (`prefetch_lookahead` = 1).
    The cap is the user's: here it is the least with which the step fits.
    """
    step, layers = task.step, task.step.layers
    last_layer = layers[step.layer_at(step.turn_slot - 1)]
    eligible = [i for i in task.activations() if task.gaps[i].first_slot < last_layer.first_slot]
    for i in task.problem.fewest_that_fit(task.largest_first(eligible)):
        gap = task.gaps[i]
        left = min(step.layer_at(gap.first_slot) + 1, len(layers) - 1)
        release_slot = layers[left].end_slot
        ahead = layers[max(0, step.layer_at(gap.next_use_slot) - 1)]
        in_slot = min(max(ahead.first_slot, release_slot + 1), gap.next_use_slot)
        if release_slot < gap.next_use_slot:
            yield task.swap(i, release_slot, in_slot)


def _torchtune(task: Task) -> Swaps:
    """torchtune's OffloadActivations: every saved tensor, with a stash of the last five.

    As in the code of torchtune (`training/_activation_offloading.py`), which was read. Every saved
    tensor of 1 KiB and more that is no parameter or buffer is copied out when it is packed, on one
    side stream for both directions. It stays until five later ones were packed; then compute waits
    for its copy and it is freed. What is still in the stash when backward begins is used from
    there. In backward the copy back is issued when the tensor is unpacked, and compute waits at
    once. The budget plays no part.
    """
    packed = sorted((_packed_slot(task, i), i) for i in task.activations())
    for (_, i), (later_slot, _) in zip(packed, packed[MAX_FWD_STASH:], strict=False):
        gap = task.gaps[i]
        yield task.swap(i, max(gap.first_slot, later_slot), gap.next_use_slot)


def _packed_slot(task: Task, i: int) -> int:
    gap = task.gaps[i]
    shown_at = task.step.profile.storages[gap.storage].shown_at
    return gap.first_slot if shown_at is None else shown_at


def _deepcompile(task: Task) -> Swaps:
    """DeepCompile's `offload_activation`: all of it out, then the largest brought back.

    As in DeepSpeed's code, which was read. Every activation of 5 MiB and more is offloaded; the
    peak that leaves is the floor. Largest first, activations are brought back while floor and bytes
    stay within the budget less a margin of 10%. Compute waits for each copy out at once. A reload
    is hoisted until the time of the ops above it covers its copy, or until the budget would break.
    """
    problem = task.problem
    budget_bytes = DEEPCOMPILE_BUDGET_SHARE * problem.budget_bytes
    offloaded = {i: task.gaps[i].first_slot for i in _still_offloaded(task, budget_bytes)}
    free = FreeBytes(problem, offloaded, int(budget_bytes))
    for i in sorted(offloaded, key=lambda i: task.gaps[i].next_use_slot):
        gap = task.gaps[i]
        covered_us = problem.elapsed_us[gap.next_use_slot] - problem.h2d_us[i]
        slot = free.first_with_room(gap.size_bytes, gap.first_slot + 1, gap.next_use_slot)
        while slot < gap.next_use_slot and problem.elapsed_us[slot + 1] <= covered_us:
            slot += 1
        free.give(-gap.size_bytes, slot, gap.next_use_slot)
        yield task.swap(i, gap.first_slot, slot)


def _still_offloaded(task: Task, budget_bytes: float) -> list[int]:
    eligible = [i for i in task.activations() if task.gaps[i].size_bytes >= DEEPCOMPILE_MIN_BYTES]
    held_bytes = task.problem.least_budget_bytes(eligible)
    kept = set()
    for i in task.largest_first(eligible):
        if held_bytes + task.gaps[i].size_bytes <= budget_bytes:
            held_bytes += task.gaps[i].size_bytes
            kept.add(i)
    return [i for i in eligible if i not in kept]


TORCH_PASS, TORCH_PASS_SINK = (
    Heuristic(
        name=name,
        source="torch 2.13, enable_activation_offloading",
        known_from=KnownFrom.CODE,
        simplified="every activation is marked for offloading; the bandwidth it is told is the "
        "link's",
        rule=partial(_compiler_pass, sink_wait=sink_wait),
        one_stream=True,
    )
    for name, sink_wait in (("torch async pass", False), ("torch async pass, sink_wait", True))
)
TORCHTITAN = Heuristic(
    name="torchtitan greedy",
    source="pytorch/torchtitan, auto_perf_maxing",
    known_from=KnownFrom.CODE,
    simplified="its host cap is the least with which the step would fit if copies took no time; "
    "layers are leaf modules, as in all of these rules, and not blocks of the transformer",
    rule=_torchtitan,
)
TORCHTUNE = Heuristic(
    name="torchtune offload",
    source="pytorch/torchtune, OffloadActivations",
    known_from=KnownFrom.CODE,
    simplified="the copy out begins after the last forward use; the interpreter does not run ahead "
    "of the device, so a copy back starts when compute asks for it; tensors below --min-size stay",
    rule=_torchtune,
    one_stream=True,
)
DEEPCOMPILE = Heuristic(
    name="DeepSpeed DeepCompile",
    source="deepspeedai/DeepSpeed, offload_activation",
    known_from=KnownFrom.CODE,
    simplified="activations alone, without offload_adam_states",
    rule=_deepcompile,
)
