"""Trips whose four anchors a baseline's own rules set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from planner.draft import Trip
from planner.memory import Absence, resident_bytes
from planner.problem import Problem
from planner.schedule import Action, ActionKind, Schedule


class RuledTrip(NamedTuple):
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

    trips: tuple[RuledTrip, ...]
    streams: Streams = Streams.ONE_EACH_WAY


def ruled(trips: Iterable[RuledTrip], streams: Streams = Streams.ONE_EACH_WAY) -> Ruled:
    """Returns trips in order of swap-out, without those that would give nothing back."""
    useful = (trip for trip in trips if trip.release_slot < trip.swap_in_slot)
    return Ruled(tuple(sorted(useful, key=lambda trip: trip.swap_out_slot)), streams)


def lower_trips(problem: Problem, trips: Sequence[RuledTrip]) -> Schedule:
    """Lowers trips to actions, in the order of `planner.schedule.ActionKind` at each anchor."""
    anchors: list[list[Action]] = [[] for _ in range(problem.slot_count)]
    by_return = sorted(trips, key=_return_order)

    def act(slot: int, kind: ActionKind, trip: RuledTrip) -> None:
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


def held_bytes(problem: Problem, trips: Iterable[RuledTrip | Trip]) -> tuple[int, ...]:
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


def _return_order(trip: RuledTrip) -> tuple[int, int]:
    """Among copies back that one anchor issues, the one that is awaited first."""
    return (trip.await_slot - trip.swap_in_slot, trip.gap)


def _slots_leaving(trip: RuledTrip) -> int:
    """Among those that one anchor releases, the one that was issued longest ago."""
    return trip.release_slot - trip.swap_out_slot
