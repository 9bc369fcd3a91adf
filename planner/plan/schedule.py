"""The schedule: a plan lowered to what happens at each anchor.

The simulator and the replayer execute the very same schedule.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from planner.plan.plan import Plan


class ActionKind(StrEnum):
    """What is done to a storage at an anchor, in the order in which one anchor does them.

    Issuing comes first so that a copy loses no time to the waits behind it, and bytes are given
    back before others are taken. Values are the words of `Action`'s text form.
    """

    SWAP_OUT = "out"
    """The copy to the host is issued."""
    RELEASE = "release"
    """Compute waits for that copy; the device bytes are given back."""
    DROP = "drop"
    """The device bytes are given back with no copy."""
    SWAP_IN = "in"
    """The device bytes are taken again; the copy back is issued."""
    AWAIT = "await"
    """Compute waits for the copy back."""
    REBUILD = "rebuild"
    """The device bytes are taken again; the ops that wrote them are run again."""


class Action(NamedTuple):
    """One thing to do to a storage at an anchor; prints as `out 17`."""

    kind: ActionKind
    storage: int

    def __str__(self) -> str:
        return f"{self.kind.value} {self.storage}"


class SwapAnchors(Protocol):
    """The anchors of one swap: a plan's `Swap`, or one that is timed and not written down yet."""

    @property
    def storage(self) -> int:
        """Id of the storage."""

    @property
    def swap_out_slot(self) -> int:
        """The slot whose anchor issues the copy to the host, or gives back a clean storage."""

    @property
    def release_slot(self) -> int:
        """The slot whose anchor waits for that copy and gives the device bytes back."""

    @property
    def swap_in_slot(self) -> int:
        """The slot whose anchor takes them again and issues the copy back."""

    @property
    def await_slot(self) -> int:
        """The slot whose anchor awaits the copy back."""

    @property
    def clean(self) -> bool:
        """Whether it relies on the copy of the storage's swap before."""


Schedule = tuple[tuple[Action, ...], ...]
"""The actions at the anchor of each slot, in the order in which they happen."""


def lower(plan: Plan) -> Schedule:
    """Lowers a plan to the actions at each of its anchors.

    What is dropped has one action per storage at both ends; those of one rebuild follow each other.
    """
    anchors = [list(actions) for actions in lower_swaps(plan.swaps, len(plan.slots))]
    for rebuild in plan.rebuilds:
        for drop in rebuild.drops:
            anchors[drop.slot].append(Action(ActionKind.DROP, drop.storage))
            anchors[rebuild.slot].append(Action(ActionKind.REBUILD, drop.storage))
    order = list(ActionKind)
    # Sorting is stable: the order among actions of one kind stays.
    return tuple(
        tuple(sorted(actions, key=lambda action: order.index(action.kind))) for actions in anchors
    )


def lower_swaps(swaps: Sequence[SwapAnchors], slot_count: int) -> Schedule:
    """Lowers swaps, in order of swap-out, to the actions at each anchor.

    Their slots may count on past the end of the step.

    Copies to the host are issued in the order of the swaps; copies back in the order in which they
    are awaited, because the lane carries them one after the other. At one anchor, what was issued
    first is released and awaited first. A clean swap has no swap-out action.
    """
    anchors: list[list[Action]] = [[] for _ in range(slot_count)]

    def act(slot: int, kind: ActionKind, swap: SwapAnchors) -> None:
        anchors[slot % slot_count].append(Action(kind, swap.storage))

    def slots_leaving(swap: SwapAnchors) -> int:
        return (swap.release_slot - swap.swap_out_slot) % slot_count

    def slots_back(swap: SwapAnchors) -> int:
        return (swap.await_slot - swap.swap_in_slot) % slot_count

    for swap in swaps:
        if not swap.clean:
            act(swap.swap_out_slot, ActionKind.SWAP_OUT, swap)
    for swap in sorted(swaps, key=slots_leaving, reverse=True):
        act(swap.release_slot, ActionKind.RELEASE, swap)
    for swap in sorted(swaps, key=lambda swap: (slots_back(swap), swap.storage)):
        act(swap.swap_in_slot, ActionKind.SWAP_IN, swap)
    for swap in sorted(swaps, key=lambda swap: (-slots_back(swap), swap.storage)):
        act(swap.await_slot, ActionKind.AWAIT, swap)
    return tuple(tuple(actions) for actions in anchors)


def may_wait(schedule: Schedule) -> tuple[bool, ...]:
    """Returns, for each slot, whether compute waits for a copy at its anchor if it is late."""
    waits = (ActionKind.RELEASE, ActionKind.AWAIT)
    return tuple(any(action.kind in waits for action in actions) for actions in schedule)
