"""The asynchronous activation-offload pass of torch 2.13, with prefetch switched on.

As in torch 2.13's `_functorch/_activation_offloading`, which was read. The caller says what to
offload; here that is every activation that backward reads. Forward: the copy out follows the last
use, and the wait that frees the bytes follows the copy at once, or, with `sink_wait`, all waits
stand at the end of the forward graph. Backward: walking the graph from its end, the time of each
compute node is charged to the reload at the head of a queue, and a reload is placed where its time
is covered; what is left stands at the beginning. Memory is not looked at. One stream carries both
directions.
"""

from collections import deque
from collections.abc import Callable, Iterator

from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, Streams, ruled

SOURCE = "torch 2.13, enable_activation_offloading"
SIMPLIFIED = "every activation is marked for offloading; the bandwidth it is told is the link's"


def _wait_at_once(case: Case) -> Ruled:
    return _plan(case, lambda i: case.gaps[i].first_slot)


def _wait_at_the_end(case: Case) -> Ruled:
    return _plan(case, lambda i: case.step.turn_slot)


TORCH_PASS = Baseline(
    name="torch async pass",
    source=SOURCE,
    known_from=KnownFrom.CODE,
    simplified=SIMPLIFIED,
    rule=_wait_at_once,
)
TORCH_PASS_SINK = Baseline(
    name="torch async pass, sink_wait",
    source=SOURCE,
    known_from=KnownFrom.CODE,
    simplified=SIMPLIFIED,
    rule=_wait_at_the_end,
)


def _plan(case: Case, release_slot: Callable[[int], int]) -> Ruled:
    return ruled(_trips(case, release_slot), Streams.ONE_FOR_BOTH)


def _trips(case: Case, release_slot: Callable[[int], int]) -> Iterator[RuledSwap]:
    reload_slots = _reload_slots(case)
    for i in case.activations():
        gap = case.gaps[i]
        if release_slot(i) < gap.next_use_slot:
            in_slot = max(reload_slots[i], release_slot(i) + 1)
            yield RuledSwap(i, gap.first_slot, release_slot(i), in_slot, gap.next_use_slot)


def _reload_slots(case: Case) -> dict[int, int]:
    """`reorder_for_prefetch`: where each reload comes to stand."""
    step, problem = case.step, case.problem
    first_users: dict[int, list[int]] = {}
    for i in case.activations():
        gap = case.gaps[i]
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
    return dict.fromkeys(case.activations(), step.turn_slot) | placed
