"""torchtitan's greedy offload: the largest activations, one layer ahead, one layer behind.

As merged in pytorch/torchtitan, which was read. Of the activations that backward reads, the largest
are offloaded first, up to a cap on host bytes; those of the last forward layer are not. Compute
waits for a layer's copies at the end of the layer after it (`defer_n_layers` = 1), and the copies
back are issued when the layer before their user's begins (`prefetch_lookahead` = 1). Neither looks
at memory. The cap is the user's: here it is the least with which the step fits.
"""

from collections.abc import Iterable, Iterator

from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, ruled


def _plan(case: Case) -> Ruled:
    order = case.largest_first(_eligible(case), lambda i: case.gaps[i].size_bytes)
    return ruled(_trips(case, case.fewest_that_fit(order)))


TORCHTITAN = Baseline(
    name="torchtitan greedy",
    source="pytorch/torchtitan, auto_perf_maxing",
    known_from=KnownFrom.CODE,
    simplified="its host cap is the least with which the step would fit if copies took no time; "
    "layers are leaf modules, as in all of these rules, and not blocks of the transformer",
    rule=_plan,
)


def _eligible(case: Case) -> list[int]:
    last_layer = case.step.layers[case.step.layer_at(case.step.turn_slot - 1)]
    return [i for i in case.activations() if case.gaps[i].first_slot < last_layer.first_slot]


def _trips(case: Case, offloaded: Iterable[int]) -> Iterator[RuledSwap]:
    layers = case.step.layers
    for i in offloaded:
        gap = case.gaps[i]
        left = min(case.step.layer_at(gap.first_slot) + 1, len(layers) - 1)
        release_slot = layers[left].end_slot
        ahead = layers[max(0, case.step.layer_at(gap.next_use_slot) - 1)]
        in_slot = min(max(ahead.first_slot, release_slot + 1), gap.next_use_slot)
        if release_slot < gap.next_use_slot:
            yield RuledSwap(i, gap.first_slot, release_slot, in_slot, gap.next_use_slot)
