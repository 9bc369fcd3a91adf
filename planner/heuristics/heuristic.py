"""A heuristic: a published rule, what it makes of a step, and how long compute then waits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from planner.heuristics.task import Task
from planner.plan.copy_times import DIRECTIONS, DMA_ALONE, Engines, copy_us
from planner.plan.device_memory import Absence, resident_bytes
from planner.plan.plan import Boundary
from planner.plan.schedule import Action, ActionKind, Schedule
from planner.plan.simulate import Timeline, simulate
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap
from profiles.schema.link import CopyMethod


class KnownFrom(StrEnum):
    """How its rules became known to us."""

    CODE = "its code was read"
    PAPER = "its paper was read"
    OTHERS = "as others describe it"
    CONTROL = "a control, published nowhere"


class RuledSwap(NamedTuple):
    """One gap used, with swap_out <= release < swap_in <= await.

    Unlike a plan's own swaps it may be awaited before the gap ends: many rules wait too early.
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
    """How many copies a heuristic's runtime lets run at once."""

    ONE_EACH_WAY = auto()
    ONE_FOR_BOTH = auto()
    """Copies out and copies back wait for each other on one stream."""


@dataclass(frozen=True)
class HeuristicPlan:
    """What a heuristic does with a step.

    Attributes:
        swaps: In order of swap-out. Many rules wait for a copy back before the gap ends.
        streams: On what its copies run.
    """

    swaps: tuple[RuledSwap, ...]
    streams: Streams = Streams.ONE_EACH_WAY


def heuristic_plan(
    swaps: Iterable[RuledSwap], streams: Streams = Streams.ONE_EACH_WAY
) -> HeuristicPlan:
    """Returns swaps in order of swap-out, without those that would give nothing back."""
    useful = (swap for swap in swaps if swap.release_slot < swap.swap_in_slot)
    return HeuristicPlan(tuple(sorted(useful, key=lambda swap: swap.swap_out_slot)), streams)


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """A way to plan swaps; a control unless it says where it is from.

    Attributes:
        name: As it is printed.
        rule: Its selection and its timing.
        source: Where it was published.
        known_from: How its rules became known to us.
        simplified: What is stated more simply here than there.
        boundary: Whether its swaps may wrap round the step boundary; if not, what lives from step
            to step is resident when a step begins and when it ends.
    """

    name: str
    rule: Callable[[Task], HeuristicPlan]
    source: str = ""
    known_from: KnownFrom = KnownFrom.CONTROL
    simplified: str = ""
    boundary: Boundary = Boundary.RESIDENT

    def plan(self, task: Task) -> HeuristicPlan:
        """Plans a task by the rule, with the gaps that the rule may use."""
        return self.rule(task.bounded(self.boundary))


def lower_ruled_swaps(problem: Problem, swaps: Sequence[RuledSwap]) -> Schedule:
    """Lowers swaps to actions, at each anchor in the order of `ActionKind`."""
    anchors: list[list[Action]] = [[] for _ in range(problem.slot_count)]
    by_return = sorted(swaps, key=lambda s: (s.await_slot - s.swap_in_slot, s.gap))
    by_exit = sorted(swaps, key=lambda s: s.release_slot - s.swap_out_slot, reverse=True)
    for kind, ordered, slots in (
        (ActionKind.SWAP_OUT, swaps, [s.swap_out_slot for s in swaps]),
        (ActionKind.RELEASE, by_exit, [s.release_slot for s in by_exit]),
        (ActionKind.SWAP_IN, by_return, [s.swap_in_slot for s in by_return]),
        (ActionKind.AWAIT, by_return, [s.await_slot for s in by_return]),
    ):
        for swap, slot in zip(ordered, slots, strict=True):
            action = Action(kind, problem.gaps[swap.gap].storage)
            anchors[slot % problem.slot_count].append(action)
    return tuple(tuple(actions) for actions in anchors)


def held_bytes(problem: Problem, swaps: Iterable[RuledSwap | TimedSwap]) -> tuple[int, ...]:
    """Returns the bytes resident in each slot under swaps: program order, whatever the clock."""
    return resident_bytes(
        problem.resident_bytes,
        (
            Absence(
                swap.release_slot % problem.slot_count,
                swap.swap_in_slot % problem.slot_count,
                problem.gaps[swap.gap].size_bytes,
            )
            for swap in swaps
        ),
    )


def own_stall_us(problem: Problem, plan: HeuristicPlan) -> float:
    """Returns how long compute waits in a step, with the heuristic's own timing and streams."""
    if plan.streams is Streams.ONE_FOR_BOTH:
        return one_stream_stall_us(problem, plan)
    return timeline(problem, plan).total_stall_us


def timeline(problem: Problem, plan: HeuristicPlan, engines: Engines = DMA_ALONE) -> Timeline:
    """Simulates swaps as plans are simulated, one stream each way."""
    return simulate(
        durations_us=problem.durations_us,
        sizes_bytes={gap.storage: gap.size_bytes for gap in problem.gaps},
        link=problem.link,
        schedule=lower_ruled_swaps(problem, plan.swaps),
        engines=engines,
    )


def waits_us(problem: Problem, plan: HeuristicPlan) -> dict[int, float]:
    """Returns the gaps whose copies back compute waits for, and how late each one is."""
    lanes = timeline(problem, plan)
    by_issue = sorted(plan.swaps, key=lambda swap: (swap.swap_in_slot, swap.await_slot, swap.gap))
    late = {}
    for swap, copy in zip(by_issue, lanes.h2d, strict=True):
        slot = swap.await_slot
        arrival_us = lanes.start_us[slot] - lanes.stall_us[slot]
        if lanes.stall_us[slot] > 0 and copy.end_us > arrival_us:
            late[swap.gap] = copy.end_us - arrival_us
    return late


def one_stream_stall_us(problem: Problem, plan: HeuristicPlan) -> float:
    """Simulates swaps whose copies, both ways, run one after the other in order of issue.

    The three lanes of `planner.plan.simulate` with the two of the link made one. No copy is under
    way when a step ends: every release and every await is inside it.
    """
    sizes_bytes = {gap.storage: gap.size_bytes for gap in problem.gaps}
    awaited = {ActionKind.RELEASE: ActionKind.SWAP_OUT, ActionKind.AWAIT: ActionKind.SWAP_IN}
    ends_us: dict[tuple[ActionKind, int], float] = {}
    free_us = waited_us = 0.0
    for t, actions in enumerate(lower_ruled_swaps(problem, plan.swaps)):
        now_us = problem.elapsed_us[t] + waited_us
        for kind, storage in actions:
            if kind in DIRECTIONS:
                direction, size_bytes = DIRECTIONS[kind], sizes_bytes[storage]
                took_us = copy_us(problem.link, direction, size_bytes, CopyMethod.DMA)
                free_us = max(free_us, now_us) + took_us
                ends_us[kind, storage] = free_us
            else:
                now_us = max(now_us, ends_us[awaited[kind], storage])
        waited_us = now_us - problem.elapsed_us[t]
    return waited_us
