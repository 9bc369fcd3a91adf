"""torchtune's OffloadActivations: every saved tensor, with a stash of the last five.

As in the code of torchtune (`training/_activation_offloading.py`), which was read. Every saved
tensor of 1 KiB and more that is no parameter or buffer is copied out when it is packed, on one side
stream for both directions. It stays until five later ones were packed; then compute waits for its
copy and it is freed. What is still in the stash when backward begins is used from there. In
backward the copy back is issued when the tensor is unpacked, and compute waits at once. The budget
plays no part.
"""

from collections.abc import Iterator

from planner.heuristics.heuristic import Baseline, KnownFrom
from planner.heuristics.task import Case
from planner.heuristics.timed_swaps import Ruled, RuledSwap, Streams, ruled

MAX_FWD_STASH = 5


def _stash(case: Case) -> Ruled:
    return ruled(_trips(case), Streams.ONE_FOR_BOTH)


TORCHTUNE = Baseline(
    name="torchtune offload",
    source="pytorch/torchtune, OffloadActivations",
    known_from=KnownFrom.CODE,
    simplified="the copy out begins after the last forward use; the interpreter does not run ahead "
    "of the device, so a copy back starts when compute asks for it; tensors below --min-size stay",
    rule=_stash,
)


def _trips(case: Case) -> Iterator[RuledSwap]:
    packed = sorted((_packed_slot(case, i), i) for i in case.activations())
    for (_, i), (later_slot, _) in zip(packed, packed[MAX_FWD_STASH:], strict=False):
        gap = case.gaps[i]
        release_slot = max(gap.first_slot, later_slot)
        yield RuledSwap(i, gap.first_slot, release_slot, gap.next_use_slot, gap.next_use_slot)


def _packed_slot(case: Case, i: int) -> int:
    gap = case.gaps[i]
    shown_at = case.step.profile.storages[gap.storage].shown_at
    return gap.first_slot if shown_at is None else shown_at
