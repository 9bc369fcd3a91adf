"""Language models on cards that people own: how near the bound a plan is after its time limit.

    python -m tests.benchmarks.recompute.bench_language --csv language.csv

The library's Llamas of 1 to 13 billion parameters (AdamW, bf16), over the link of their device,
each planned with swaps alone and then with recompute beside them, one plan after the other in this
process. Recompute is the profile's estimate, stalls are simulated, bounds are bounds; seconds and
the load of the machine meanwhile are measured. The goal: a gap of 1.5% of the step.
"""

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.plan.plan import Without
from planner.solving import solve
from profiles.library.index import PREFIX, profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.profile_file import read_profile
from profiles.schema.units import parse_size_bytes
from tests.benchmarks.tables import print_headings, print_machine, print_row, written

CASES = (
    ("llama-1b-rtx4090", "22GiB"),
    ("llama-3b-rtx4090", "22GiB"),
    ("llama-8b-rtx4090", "22GiB"),
    ("llama-8b-a100-80gb", "76GiB"),
    ("llama-13b-a100-80gb", "76GiB"),
)
"""Each a library profile and a budget: the device's memory less what a process needs of it."""
WAYS = (Without.RECOMPUTE, Without.NOTHING)
GOAL = 0.015


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came of a case; shares but the gap are of the step with nothing moved.

    Attributes:
        case: The library profile.
        budget: As asked for.
        without: What the plan does not use.
        bound: Recompute and stall that no plan can be below (bound).
        recompute: Of the plan (estimated).
        stall: Of the plan (simulated).
        gap: From the bound to the plan, as a share of the best step.
        dropped: Storages that are dropped and rebuilt.
        swaps: Swaps of the plan.
        seconds: Wall time of planning (measured).
        load: Processes that wanted a core at its end, in the mean of a minute (measured).
    """

    case: str
    budget: str
    without: str
    bound: float
    recompute: float
    stall: float
    gap: float
    dropped: int
    swaps: int
    seconds: float
    load: float


def figures_of(name: str, budget: str, without: Without, time_limit_s: float) -> Figures | None:
    """Plans a case; None if its budget cannot be met."""
    profile = read_profile(profile_path(Path(f"{PREFIX}{name}")))
    started_s = time.monotonic()
    try:
        plan = solve(
            profile,
            budget_bytes=parse_size_bytes("budget", budget),
            time_limit_s=time_limit_s,
            without=without,
        )
    except BudgetError:
        return None
    about, step_us = plan.certificate, profile.step_us
    return Figures(
        case=name,
        budget=budget,
        without=without.value,
        bound=about.bound_beyond_us / step_us,
        recompute=about.recompute_us / step_us,
        stall=about.simulated_stall_us / step_us,
        gap=(about.beyond_us - about.bound_beyond_us) / (step_us + about.bound_beyond_us),
        dropped=sum(len(rebuild.drops) for rebuild in plan.rebuilds),
        swaps=len(plan.swaps),
        seconds=time.monotonic() - started_s,
        load=os.getloadavg()[0],
    )


HEADINGS = (
    *("case", "budget", "without", "bound", "recompute", "stall", "gap", "dropped", "swaps"),
    *("seconds", "load", "verdict"),
)


def cells(figures: Figures) -> tuple[str, ...]:
    """One row of the table."""
    shares = (figures.bound, figures.recompute, figures.stall, figures.gap)
    return (
        *(figures.case, figures.budget, figures.without),
        *(f"{100 * share:.2f}%" for share in shares),
        str(figures.dropped),
        str(figures.swaps),
        f"{figures.seconds:.0f}",
        f"{figures.load:.1f}",
        "reached" if figures.gap <= GOAL else "missed",
    )


def found(only: Sequence[str], time_limit_s: float) -> Iterator[Figures]:
    """Plans the cases whose names match, and says which budgets cannot be met."""
    for name, budget in CASES:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in only):
            continue
        for without in WAYS:
            figures = figures_of(name, budget, without, time_limit_s)
            if figures is None:
                print(f"{name} cannot be planned for {budget} without {without.value}")
            else:
                yield figures


def main(words: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="profiles")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    print_machine()
    print_headings(HEADINGS)
    for figures in written(found(options.only, options.time_limit), options.csv):
        print_row(cells(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
