"""Trips whose four anchors a baseline's own rules set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate
from typing import NamedTuple

from planner.plan.copy_times import DMA_ALONE, Engines
from planner.plan.device_memory import Absence, resident_bytes
from planner.plan.schedule import Action, ActionKind, Schedule
from planner.plan.simulate import Timeline, simulate
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap


class RuledSwap(NamedTuple):
    """One gap used, with swap_out <= release < swap_in <= await.

    Unlike a plan's own trips it may be awaited before the gap ends: many rules wait too early.
    Slots count on past the end of the step, as those of gaps do.

    Attributes:
        gap: Index of the gap in the problem.
        swap_out_slot: Where the copy to the host is issued.
        release_slot: Where compute waits for it and the device bytes are given back.
        swap_in_slot: Where they are taken again and the copy back is issued.
        await_slot: Where compute waits for the copy back.
    """

    gap: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    await_slot: int


class Streams(Enum):
    """How many copies a baseline's runtime lets run at once."""

    ONE_EACH_WAY = auto()
    ONE_FOR_BOTH = auto()
    """Copies out and copies back wait for each other on one stream."""


@dataclass(frozen=True)
class Ruled:
    """What a baseline does with a step.

    Attributes:
        trips: In order of swap-out.
        streams: On what its copies run.
    """

    trips: tuple[RuledSwap, ...]
    streams: Streams = Streams.ONE_EACH_WAY


def ruled(trips: Iterable[RuledSwap], streams: Streams = Streams.ONE_EACH_WAY) -> Ruled:
    """Returns trips in order of swap-out, without those that would give nothing back."""
    useful = (trip for trip in trips if trip.release_slot < trip.swap_in_slot)
    return Ruled(tuple(sorted(useful, key=lambda trip: trip.swap_out_slot)), streams)


def lower_ruled_swaps(problem: Problem, trips: Sequence[RuledSwap]) -> Schedule:
    """Lowers trips to actions, at each anchor in the order of `ActionKind`."""
    anchors: list[list[Action]] = [[] for _ in range(problem.slot_count)]
    by_return = sorted(trips, key=_return_order)

    def act(slot: int, kind: ActionKind, trip: RuledSwap) -> None:
        anchors[slot % problem.slot_count].append(Action(kind, problem.gaps[trip.gap].storage))

    for trip in trips:
        act(trip.swap_out_slot, ActionKind.SWAP_OUT, trip)
    for trip in sorted(trips, key=_slots_leaving, reverse=True):
        act(trip.release_slot, ActionKind.RELEASE, trip)
    for trip in by_return:
        act(trip.swap_in_slot, ActionKind.SWAP_IN, trip)
    for trip in by_return:
        act(trip.await_slot, ActionKind.AWAIT, trip)
    return tuple(tuple(actions) for actions in anchors)


def held_bytes(problem: Problem, trips: Iterable[RuledSwap | TimedSwap]) -> tuple[int, ...]:
    """Returns the bytes resident in each slot under trips: program order, whatever the clock."""
    return resident_bytes(
        problem.resident_bytes,
        (
            Absence(
                trip.release_slot % problem.slot_count,
                trip.swap_in_slot % problem.slot_count,
                problem.gaps[trip.gap].size_bytes,
            )
            for trip in trips
        ),
    )


def _return_order(trip: RuledSwap) -> tuple[int, int]:
    """Among copies back that one anchor issues, the one that is awaited first."""
    return (trip.await_slot - trip.swap_in_slot, trip.gap)


def _slots_leaving(trip: RuledSwap) -> int:
    """Among those that one anchor releases, the one that was issued longest ago."""
    return trip.release_slot - trip.swap_out_slot


def own_stall_us(problem: Problem, ruled: Ruled) -> float:
    """Returns how long compute waits in a step, with the baseline's own timing and streams."""
    if ruled.streams is Streams.ONE_FOR_BOTH:
        return one_stream_stall_us(problem, ruled)
    return timeline(problem, ruled).total_stall_us


def timeline(problem: Problem, ruled: Ruled, engines: Engines = DMA_ALONE) -> Timeline:
    """Simulates trips as plans are simulated, one stream each way."""
    return simulate(
        durations_us=problem.durations_us,
        sizes_bytes={gap.storage: gap.size_bytes for gap in problem.gaps},
        link=problem.link,
        schedule=lower_ruled_swaps(problem, ruled.trips),
        engines=engines,
    )


def waits_us(problem: Problem, ruled: Ruled) -> dict[int, float]:
    """Returns the gaps whose copies back compute waits for, and how late each one is."""
    lanes = timeline(problem, ruled)
    by_issue = sorted(ruled.trips, key=lambda trip: (trip.swap_in_slot, trip.await_slot, trip.gap))
    late = {}
    for trip, copy in zip(by_issue, lanes.h2d, strict=True):
        slot = trip.await_slot
        arrival_us = lanes.start_us[slot] - lanes.stall_us[slot]
        if lanes.stall_us[slot] > 0 and copy.end_us > arrival_us:
            late[trip.gap] = copy.end_us - arrival_us
    return late


def one_stream_stall_us(problem: Problem, ruled: Ruled) -> float:
    """Simulates trips whose copies, both ways, run one after the other in order of issue.

    The three lanes of `planner.plan.simulate` with the two of the link made one. No copy is under
    way when a step ends: every release and every await is inside it.
    """
    sizes_bytes = {gap.storage: gap.size_bytes for gap in problem.gaps}
    rates = {
        ActionKind.SWAP_OUT: problem.link.d2h_bytes_per_us,
        ActionKind.SWAP_IN: problem.link.h2d_bytes_per_us,
    }
    awaited = {ActionKind.RELEASE: ActionKind.SWAP_OUT, ActionKind.AWAIT: ActionKind.SWAP_IN}
    ends_us: dict[tuple[ActionKind, int], float] = {}
    elapsed_us = tuple(accumulate(problem.durations_us, initial=0.0))
    free_us = waited_us = 0.0
    for t, actions in enumerate(lower_ruled_swaps(problem, ruled.trips)):
        now_us = elapsed_us[t] + waited_us
        for kind, storage in actions:
            if kind in rates:
                copy_us = problem.link.latency_us + sizes_bytes[storage] / rates[kind]
                free_us = max(free_us, now_us) + copy_us
                ends_us[kind, storage] = free_us
            else:
                now_us = max(now_us, ends_us[awaited[kind], storage])
        waited_us = now_us - elapsed_us[t]
    return waited_us
