"""How much plans suffer when a step is not quite the planned one, and no plan is made again.

    python -m tests.benchmarks.bench_robustness --csv robustness.csv

Each draw takes every op's time times a lognormal factor (sigma 15%, median 1) and the link at 85 to
100% of its rates, one share for both directions. What was planned stays: the same swaps, at the
same anchors, are simulated with the drawn times and rates. Budgets hold in any case, since memory
depends on the order of the program alone. All figures are simulated.
"""

import argparse
import fnmatch
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median

from planner.heuristics.heuristic import Heuristic, Swaps
from planner.heuristics.task import Task, task_of
from planner.plan.plan import Plan, Without
from planner.plan.simulate import simulate_plan
from planner.problem.timed_swap import held_bytes
from planner.solving import solve
from planner.studies.compare import HEURISTICS
from profiles.hardware.links import link_named
from profiles.library.index import profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Link, Profile
from profiles.schema.profile_file import read_profile
from tests.benchmarks.tables import print_headings, print_row, written

STEPS = (
    "unet3d-144-v100-16gb",
    "resnet50-v100-16gb",
    "gpt2-xl-v100-32gb",
    "llama-7b-v100-16gb",
)
LINKS = ("pcie3-x16", "nvlink2-ac922-4gpu")
BUDGET_SHARES = (0.5, 0.7)
SEEDS = 20
SIGMA = 0.15
SLOWEST_LINK = 0.85
OURS = "swapplan"
CAUTIOUS_SHARE = 0.9


@dataclass(frozen=True)
class Draw:
    """One way in which the step differs from the planned one.

    Attributes:
        durations_us: Time of each slot.
        link: The link as it is.
    """

    durations_us: tuple[float, ...]
    link: Link

    @property
    def compute_us(self) -> float:
        """Time of the step with nothing moved."""
        return sum(self.durations_us)


StallOf = Callable[[Draw], float]
"""The stall of something planned, in microseconds, in the step as drawn."""


def drawn(profile: Profile, link: Link, seed: int) -> Draw:
    """Draws times and rates; the same seed draws the same."""
    rng = random.Random(seed)
    share = rng.uniform(SLOWEST_LINK, 1.0)
    planned_us = [0.0] * len(profile.slots)
    found_us = [0.0] * len(profile.slots)
    for op in profile.ops:
        planned_us[op.slot] += op.duration_us
        found_us[op.slot] += op.duration_us * math.exp(rng.gauss(0.0, SIGMA))
    return Draw(
        tuple(
            slot.duration_us * (found / planned if planned else 1.0)
            for slot, found, planned in zip(profile.slots, found_us, planned_us, strict=True)
        ),
        slower(link, share),
    )


def slower(link: Link, share: float) -> Link:
    """The link at a share of its rates."""
    rates = ("d2h_bytes_per_us", "h2d_bytes_per_us", "both_bytes_per_us")
    known = {name: rate for name in rates if (rate := getattr(link, name)) is not None}
    return link.model_copy(update={name: share * rate for name, rate in known.items()})


def stall_of_plan(plan: Plan) -> StallOf:
    """Ours: the plan's schedule, simulated anew."""

    def stall_us(draw: Draw) -> float:
        slots = tuple(
            slot.model_copy(update={"duration_us": duration_us})
            for slot, duration_us in zip(plan.slots, draw.durations_us, strict=True)
        )
        changed = plan.model_copy(update={"slots": slots, "link": draw.link})
        return simulate_plan(changed).total_stall_us

    return stall_us


def stall_of_baseline(case: Task, baseline: Heuristic, swaps: Swaps) -> StallOf:
    """A baseline's swaps, simulated anew with its own streams."""

    def stall_us(draw: Draw) -> float:
        problem = replace(case.problem, durations_us=draw.durations_us, link=draw.link)
        return baseline.stall_us(problem, swaps)

    return stall_us


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One planner on one step. Stalls are shares of the step with nothing moved, as drawn.

    Attributes:
        case: Step, budget and link.
        planner: Ours or a baseline.
        planned: The stall if all goes as planned.
        median: Over the draws.
        worst: Over the draws.
        median_growth: How much the stall grew, median over the draws.
        worst_growth: The most it grew.
    """

    case: str
    planner: str
    planned: float
    median: float
    worst: float
    median_growth: float
    worst_growth: float

    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        shares = (self.planned, self.median, self.worst, self.median_growth, self.worst_growth)
        return (self.case, self.planner, *(f"{100 * share:.2f}%" for share in shares))


HEADINGS = ("case", "planner", "planned", "median", "worst", "median growth", "worst growth")


def figures(
    case: str, planner: str, stall_of: StallOf, planned: Draw, draws: Sequence[Draw]
) -> Figures:
    """Simulates what was planned as planned, and as drawn."""
    before = stall_of(planned) / planned.compute_us
    after = [stall_of(draw) / draw.compute_us for draw in draws]
    return Figures(
        case=case,
        planner=planner,
        planned=before,
        median=median(after),
        worst=max(after),
        median_growth=median(after) - before,
        worst_growth=max(after) - before,
    )


def compared(
    label: str, profile: Profile, budget_bytes: int, link: Link, seeds: int, time_limit_s: float
) -> Iterator[Figures]:
    """Ours, ours planned for a slower link, then every baseline that meets the budget.

    Raises:
        BudgetError: The budget cannot be met.
    """
    planned = Draw(tuple(slot.duration_us for slot in profile.slots), link)
    draws = [drawn(profile, link, seed) for seed in range(seeds)]
    for link_share in (1.0, CAUTIOUS_SHARE):
        plan = solve(
            profile,
            budget_bytes=budget_bytes,
            link=slower(link, link_share),
            time_limit_s=time_limit_s,
            without=Without.RECOMPUTE,
        )
        planner = OURS if link_share == 1.0 else f"{OURS}, for {link_share:.0%} of the link"
        yield figures(label, planner, stall_of_plan(plan), planned, draws)
    case = task_of(profile, budget_bytes, link)
    for baseline in HEURISTICS:
        bounded = case.bounded(baseline.boundary)
        swaps = baseline.swaps(bounded)
        if max(held_bytes(bounded.problem, swaps)) <= budget_bytes:
            stall_of = stall_of_baseline(bounded, baseline, swaps)
            yield figures(label, baseline.name, stall_of, planned, draws)


def _found(options: argparse.Namespace) -> Iterator[Figures]:
    for step, share, link in product(options.steps, options.budgets, options.links):
        label = f"{step}/{share:.0%}/{link}"
        if not any(fnmatch.fnmatch(label, only) for only in options.only):
            continue
        profile = read_profile(profile_path(Path(f"library:{step}")))
        peak_bytes = profile.peak_bytes
        try:
            yield from compared(
                label,
                profile,
                int(share * peak_bytes),
                link_named(link),
                options.seeds,
                options.time_limit,
            )
        except BudgetError:
            print_row((label, "cannot be met", *[""] * (len(HEADINGS) - 2)))


def main(words: Sequence[str]) -> None:
    """Prints a row per case and planner."""
    parser = argparse.ArgumentParser(description="Plans in steps that are not as planned.")
    parser.add_argument("--steps", nargs="+", default=STEPS, metavar="NAME")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGET_SHARES, metavar="SHARE")
    parser.add_argument("--links", nargs="+", default=LINKS, metavar="LINK")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="case labels")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--time-limit", type=float, default=55.0, metavar="SECONDS")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    print_headings(HEADINGS)
    for row in written(_found(options), options.csv):
        print_row(row.cells())


if __name__ == "__main__":
    main(sys.argv[1:])
