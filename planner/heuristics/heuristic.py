"""A heuristic: a published rule, what it makes of a step, and how long compute then waits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from planner.heuristics.task import Task
from planner.plan.copy_times import DMA_ALONE, Engines
from planner.plan.plan import Boundary
from planner.plan.schedule import ActionKind, Schedule, lower_swaps
from planner.plan.simulate import Timeline, simulate
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap

Swaps = Iterable[TimedSwap]


class KnownFrom(StrEnum):
    """How its rules became known to us."""

    CODE = "its code was read"
    PAPER = "its paper was read"
    OTHERS = "as others describe it"
    CONTROL = "a control, published nowhere"


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """A way to plan swaps; a control unless it says where it is from.

    Attributes:
        name: As it is printed.
        rule: Its selection and its timing. Many rules wait for a copy back before the gap ends.
        source: Where it was published.
        known_from: How its rules became known to us.
        simplified: What is stated more simply here than there.
        boundary: Whether its swaps may wrap round the step boundary; if not, what lives from step
            to step is resident when a step begins and when it ends.
        one_stream: Whether its copies out and its copies back wait for each other on one stream.
    """

    name: str
    rule: Callable[[Task], Swaps]
    source: str = ""
    known_from: KnownFrom = KnownFrom.CONTROL
    simplified: str = ""
    boundary: Boundary = Boundary.RESIDENT
    one_stream: bool = False

    def swaps(self, task: Task) -> tuple[TimedSwap, ...]:
        """Returns what the rule does with the gaps of a task, in order of swap-out."""
        return in_order(self.rule(task))

    def stall_us(self, problem: Problem, swaps: Swaps) -> float:
        """Returns how long compute waits in a step, with its own timing and streams."""
        if self.one_stream:
            return one_stream_stall_us(problem, swaps)
        return timeline(problem, swaps).total_stall_us


def in_order(swaps: Swaps) -> tuple[TimedSwap, ...]:
    """Returns swaps in order of swap-out, without those that would give nothing back."""
    useful = (swap for swap in swaps if swap.release_slot < swap.swap_in_slot)
    return tuple(sorted(useful, key=lambda swap: swap.swap_out_slot))


def timeline(problem: Problem, swaps: Swaps, engines: Engines = DMA_ALONE) -> Timeline:
    """Simulates swaps as plans are simulated, one stream each way; copies go by their gaps."""
    return simulate(
        durations_us=problem.durations_us,
        sizes_bytes={i: gap.size_bytes for i, gap in enumerate(problem.gaps)},
        link=problem.link,
        schedule=_schedule(problem, swaps),
        engines={
            i: engines[gap.storage] for i, gap in enumerate(problem.gaps) if gap.storage in engines
        },
    )


def _schedule(problem: Problem, swaps: Swaps) -> Schedule:
    """The actions at each anchor, on gaps instead of storages: in their order where slots tie."""
    by_gap = [swap._replace(storage=swap.gap) for swap in swaps]
    return lower_swaps(by_gap, problem.slot_count)


def waits_us(step: Timeline, swaps: Swaps) -> dict[int, float]:
    """Returns the gaps whose copies back compute waits for in the `timeline` of some swaps, and
    how late each one is."""
    ends_us = {copy.storage: copy.end_us for copy in step.h2d}
    late_us = {}
    for swap in swaps:
        slot = swap.await_slot
        arrival_us = step.start_us[slot] - step.stall_us[slot]
        if step.stall_us[slot] > 0 and ends_us[swap.gap] > arrival_us:
            late_us[swap.gap] = ends_us[swap.gap] - arrival_us
    return late_us


def one_stream_stall_us(problem: Problem, swaps: Swaps) -> float:
    """Simulates swaps whose copies, both ways, run one after the other in order of issue.

    The three lanes of `planner.plan.simulate` with the two of the link made one. No copy is under
    way when a step ends: every release and every await is inside it.
    """
    awaited = {ActionKind.RELEASE: ActionKind.SWAP_OUT, ActionKind.AWAIT: ActionKind.SWAP_IN}
    copies_us = {ActionKind.SWAP_OUT: problem.d2h_us, ActionKind.SWAP_IN: problem.h2d_us}
    ends_us: dict[tuple[ActionKind, int], float] = {}
    free_us = waited_us = 0.0
    for t, actions in enumerate(_schedule(problem, swaps)):
        now_us = problem.elapsed_us[t] + waited_us
        for kind, i in actions:
            if kind in copies_us:
                free_us = max(free_us, now_us) + copies_us[kind][i]
                ends_us[kind, i] = free_us
            else:
                now_us = max(now_us, ends_us[awaited[kind], i])
        waited_us = now_us - problem.elapsed_us[t]
    return waited_us
