"""Simulates a step under a schedule: three lanes, whole-storage copies, first in first out.

Compute walks the slots. At an anchor it does that anchor's actions in order, and then runs the
slot. A copy starts when its lane is free and it has been issued, and takes the link's latency plus
its bytes over the rate. A release or an await that finds its copy unfinished makes compute wait:
that wait is the slot's stall. All figures are simulated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from planner.schedule import Action, ActionKind, Schedule, lower
from profiles.profile import Link

if TYPE_CHECKING:
    from planner.plan import Plan


class Copy(NamedTuple):
    """One copy on a lane.

    Attributes:
        storage: Id of the storage.
        start_us: When the lane takes it up.
        end_us: When its last byte has arrived.
    """

    storage: int
    start_us: float
    end_us: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A simulated step.

    Attributes:
        start_us: When each slot's ops start, after the waits at its anchor.
        stall_us: How long compute waits at each slot's anchor.
        d2h: Copies to the host, in order.
        h2d: Copies back, in order.
        step_us: When the last slot ends.
        total_stall_us: All waits together.
    """

    start_us: tuple[float, ...]
    stall_us: tuple[float, ...]
    d2h: tuple[Copy, ...]
    h2d: tuple[Copy, ...]
    step_us: float
    total_stall_us: float


@dataclass
class Lane:
    """One direction of the link.

    Attributes:
        bytes_per_us: Its rate.
        latency_us: Fixed time per copy.
        copies: What it has carried and will carry, in order of issue.
    """

    bytes_per_us: float
    latency_us: float
    copies: list[Copy] = field(default_factory=list)
    _free_us: float = 0.0
    _end_us: dict[int, float] = field(default_factory=dict)

    def issue(self, storage: int, size_bytes: int, now_us: float) -> float:
        """Queues a copy; returns when it ends."""
        start_us = max(self._free_us, now_us)
        end_us = start_us + self.latency_us + size_bytes / self.bytes_per_us
        self.copies.append(Copy(storage, start_us, end_us))
        self._free_us = end_us
        self._end_us[storage] = end_us
        return end_us

    def end_us(self, storage: int) -> float:
        """Returns when the last copy issued for this storage ends."""
        return self._end_us[storage]


def simulate(
    *,
    durations_us: Sequence[float],
    sizes_bytes: Mapping[int, int],
    link: Link,
    schedule: Schedule,
) -> Timeline:
    """Simulates one step.

    Args:
        durations_us: Time of each slot with nothing moved.
        sizes_bytes: Bytes of each storage that moves, by id.
        link: Rates and latency.
        schedule: The actions at each slot's anchor.
    """
    d2h = Lane(link.d2h_bytes_per_us, link.latency_us)
    h2d = Lane(link.h2d_bytes_per_us, link.latency_us)
    elapsed_us = (0.0, *accumulate(durations_us))
    stalls_us: list[float] = []
    starts_us: list[float] = []
    waited_us = 0.0
    for t, actions in enumerate(schedule):
        # Not summed slot by slot: rounding must not grow with the length of the step.
        arrival_us = elapsed_us[t] + waited_us
        now_us = arrival_us
        for action in actions:
            now_us = _act(action, now_us, sizes_bytes, d2h, h2d)
        stalls_us.append(now_us - arrival_us)
        waited_us += now_us - arrival_us
        starts_us.append(now_us)
    return Timeline(
        start_us=tuple(starts_us),
        stall_us=tuple(stalls_us),
        d2h=tuple(d2h.copies),
        h2d=tuple(h2d.copies),
        step_us=elapsed_us[-1] + waited_us,
        total_stall_us=waited_us,
    )


def simulate_plan(plan: "Plan") -> Timeline:
    """Simulates one step under a plan, on the link it was made for."""
    return simulate(
        durations_us=[slot.duration_us for slot in plan.slots],
        sizes_bytes={storage.id: storage.size_bytes for storage in plan.storages},
        link=plan.link,
        schedule=lower(plan),
    )


def _act(
    action: Action, now_us: float, sizes_bytes: Mapping[int, int], d2h: Lane, h2d: Lane
) -> float:
    """Does one action; returns the time after it."""
    kind, storage = action
    if kind is ActionKind.SWAP_OUT:
        d2h.issue(storage, sizes_bytes[storage], now_us)
    elif kind is ActionKind.RELEASE:
        return max(now_us, d2h.end_us(storage))
    elif kind is ActionKind.SWAP_IN:
        h2d.issue(storage, sizes_bytes[storage], now_us)
    else:
        return max(now_us, h2d.end_us(storage))
    return now_us
