"""What a baseline's trips come to in the simulator."""

from itertools import accumulate

from planner.baselines.ruled_trip import Ruled, Streams, lower_trips
from planner.copy_costs import COPY_ENGINE_ALONE, Engines
from planner.problem import Problem
from planner.schedule import ActionKind
from planner.simulate import Timeline, simulate


def own_stall_us(problem: Problem, ruled: Ruled) -> float:
    """Returns how long compute waits in a step, with the baseline's own timing and streams."""
    if ruled.streams is Streams.ONE_FOR_BOTH:
        return one_stream_stall_us(problem, ruled)
    return timeline(problem, ruled).total_stall_us


def timeline(problem: Problem, ruled: Ruled, engines: Engines = COPY_ENGINE_ALONE) -> Timeline:
    """Simulates trips as plans are simulated, one stream each way."""
    return simulate(
        durations_us=problem.durations_us,
        sizes_bytes={gap.storage: gap.size_bytes for gap in problem.gaps},
        link=problem.link,
        schedule=lower_trips(problem, ruled.trips),
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

    The three lanes of `planner.simulate` with the two of the link made one. No copy is under way
    when a step ends: every release and every await is inside it.
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
    for t, actions in enumerate(lower_trips(problem, ruled.trips)):
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
