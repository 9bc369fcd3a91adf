"""Bounds where both lanes share a rate, against every plan of tiny steps, each simulated."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from planner.ilp.deadline import Deadline, SolverName, never
from planner.ilp.solver import relaxed_bound, whole_bound
from planner.plan.plan import Boundary
from planner.plan.schedule import lower_swaps
from planner.plan.simulate import simulate
from planner.problem.problem import Problem, problem_of
from planner.problem.settings import SETTINGS
from planner.problem.timed_swap import TimedSwap, held_bytes
from tests.support.planning.toys import activation, fixed, resident, toy, toy_link

SEEDS = range(24)
SLOTS = 6


def tiny_problem(seed: int) -> Problem:
    """Up to three storages that can be away once each, and work that leaves them no room."""
    rng = random.Random(seed)
    storages = []
    for n in range(rng.choice((2, 2, 3))):
        size_bytes, last = rng.randint(1, 12), rng.randint(n + 2, SLOTS - 1)
        if rng.random() < 0.4:
            storages.append(resident(f"parameter:{n}", size_bytes, last, writes=(last,)))
        else:
            storages.append(activation(f"pack:{n}", size_bytes, n, last))
    work = [fixed(f"w{t}", rng.randint(1, 12), t) for t in range(SLOTS) if rng.random() < 0.5]
    link = toy_link(rng.choice((1.0, 2.0)), rng.choice((1.0, 0.5)))
    both = rng.uniform(0.5, 1.0) * (link.d2h_bytes_per_us + link.h2d_bytes_per_us)
    slots_us = [float(rng.choice((0, 1, 5, 10))) for _ in range(SLOTS - 1)]
    profile = toy(10.0, *slots_us, storages=[*storages, *work])
    problem = problem_of(
        profile,
        budget_bytes=10**6,
        link=link.model_copy(update={"both_bytes_per_us": both}),
        min_size_bytes=1,
        boundary=Boundary.PERIODIC,
        every_gap=True,
    )
    least_bytes = problem.least_budget_bytes(problem.whole_set)
    room_bytes = max(problem.resident_bytes) - least_bytes
    return replace(problem, budget_bytes=least_bytes + rng.choice((0, room_bytes // 2)))


def swaps_over(problem: Problem, i: int) -> Iterator[TimedSwap | None]:
    """Every swap of a gap that awaits its copy at the end, and that there is none."""
    gap = problem.gaps[i]
    yield None
    for out_slot in range(gap.first_slot, gap.next_use_slot):
        for release_slot in range(out_slot, gap.next_use_slot):
            for in_slot in range(release_slot + 1, gap.next_use_slot + 1):
                slots = (out_slot, release_slot, in_slot, gap.next_use_slot)
                yield TimedSwap(i, gap.storage, *slots)


def least_stall_us(problem: Problem) -> float:
    """The least stall of all plans; infinite if none meets the budget."""
    sizes_bytes = {gap.storage: gap.size_bytes for gap in problem.gaps}
    least_us = math.inf
    for picked in product(*(swaps_over(problem, i) for i in range(len(problem.gaps)))):
        swaps = [swap for swap in picked if swap is not None]
        if max(held_bytes(problem, swaps)) <= problem.budget_bytes:
            timeline = simulate(
                durations_us=problem.durations_us,
                sizes_bytes=sizes_bytes,
                link=problem.link,
                schedule=lower_swaps(swaps, problem.slot_count),
            )
            least_us = min(least_us, timeline.total_stall_us)
    return least_us


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("most_slots", [3, 1000])
def test_no_plan_waits_less_than_the_bounds(
    seed: int, most_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(SETTINGS, max_relaxed_slots=most_slots)
    monkeypatch.setattr("planner.ilp.variables.SETTINGS", few)
    problem, deadline = tiny_problem(seed), Deadline(math.inf, never)
    least_us = least_stall_us(problem)
    loose = relaxed_bound(problem, SolverName.HIGHS, deadline)
    tight = whole_bound(problem, SolverName.HIGHS, deadline)
    assert max(loose.stall_us, tight.stall_us) <= least_us + 1e-6


def test_the_steps_are_not_all_easy() -> None:
    waits = [least_stall_us(tiny_problem(seed)) > 0 for seed in SEEDS]
    assert sum(waits) > len(SEEDS) // 2
