"""What planning takes, and how good plans are: every library profile at three budgets and links.

    python -m tests.benchmarks.bench_solve                       # all 180 cases; takes hours
    python -m tests.benchmarks.bench_solve --only 'llama-7b-v100*/50%/*' --csv solve.csv

Each case is solved by one thread in a process of its own. Times and memory are measured, stalls
simulated, bounds bounds; step times of the library's profiles are estimated. The goals: a
transformer within 1% of its bound in 5 s where storages have up to 1,000 idle stretches and in 60 s
where they have more; few large storages (3D U-Nets, ResNet-50) within 3% of the tightest bound in
60 s. Each solve gets nine tenths of its goal as a time limit. What came of it, and which goals were
missed, stands in `tests/benchmarks/results/`.
"""

import argparse
import fnmatch
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from profiles.hardware.links import link_named
from profiles.library.index import profile_path, read_index
from profiles.schema.profile_file import read_profile
from tests.benchmarks.measured_solve import (
    SolveCase,
    SolveFigures,
    idle_stretches,
    measured_solves,
)
from tests.benchmarks.tables import print_headings, print_machine, print_row, written

BUDGET_SHARES = (0.3, 0.5, 0.7)
LINKS = ("pcie3-x16", "nvlink2-ac922-4gpu", "nvlink-c2c-gh200")
"""About 14, 68 and 300 GB/s."""
TRANSFORMERS = ("gpt2", "llama", "bert", "vit")
SMALL_STRETCHES = 1000
MIB = 1 << 20


class Goal(NamedTuple):
    """What a solve should reach.

    Attributes:
        gap: At most this share of the best step time above the bound.
        seconds: In at most so long.
    """

    gap: float
    seconds: float


def goal_of(workload: str, stretches: int) -> Goal:
    """The goal for a step of this kind and size."""
    if workload not in TRANSFORMERS:
        return Goal(0.03, 60.0)
    return Goal(0.01, 5.0 if stretches <= SMALL_STRETCHES else 60.0)


def verdict(figures: SolveFigures) -> str:
    """Whether the goal was reached, or why not."""
    if figures.gap is None:
        return "cannot be met"
    goal = goal_of(figures.workload, figures.idle_stretches)
    missed = [
        *(["gap"] if figures.gap > goal.gap else []),
        *(["time"] if figures.seconds > goal.seconds else []),
    ]
    return f"missed: {', '.join(missed)}" if missed else "reached"


def cases(
    profiles: Sequence[str],
    links: Sequence[str],
    shares: Sequence[float],
    time_limit_s: float | None,
) -> Iterator[SolveCase]:
    """Every combination, in the order given.

    Args:
        profiles: Files, or `library:NAME`.
        links: Names in the table.
        shares: Budgets, as shares of the peak with nothing moved.
        time_limit_s: Of each solve; what its goal leaves if None.
    """
    for name in profiles:
        goal = _goal_for(name)
        # A time limit is met within a tenth.
        limit_s = time_limit_s or 0.9 * goal.seconds
        for share, link in product(shares, links):
            yield SolveCase(
                profile=name,
                budget_share=share,
                link=link,
                time_limit_s=limit_s,
                goal_gap=goal.gap,
            )


def _goal_for(name: str) -> Goal:
    profile = read_profile(profile_path(Path(name)))
    return goal_of(profile.workload.reference, idle_stretches(profile))


HEADINGS = (
    "case",
    "ops",
    "stretches",
    "seconds",
    "to goal",
    "CPU s",
    "rows",
    "variables",
    "binaries",
    "MiB",
    "stall",
    "loose bound",
    "bound",
    "gap",
    "proof",
    "goal",
)


def cells(figures: SolveFigures) -> tuple[str, ...]:
    """One row of the table; stall and bounds as shares of the step with nothing moved."""

    def share(value_us: float | None) -> str:
        return "" if value_us is None else f"{100 * value_us / (figures.compute_us or 1):.2f}%"

    return (
        figures.case,
        str(figures.ops),
        str(figures.idle_stretches),
        f"{figures.seconds:.1f}",
        "" if figures.goal_seconds is None else f"{figures.goal_seconds:.1f}",
        f"{figures.cpu_seconds:.1f}",
        str(figures.rows),
        str(figures.variables),
        str(figures.binaries),
        f"{figures.peak_memory_bytes / MIB:.0f}",
        share(figures.stall_us),
        share(figures.loose_bound_us),
        share(figures.bound_us),
        "" if figures.gap is None else f"{100 * figures.gap:.2f}%",
        figures.proof or "",
        verdict(figures),
    )


def _options(words: Sequence[str]) -> argparse.Namespace:
    names = [f"library:{entry.name}" for entry in read_index().entries]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--profiles", nargs="+", default=names, metavar="PROFILE")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGET_SHARES, metavar="SHARE")
    parser.add_argument("--links", nargs="+", default=LINKS, metavar="LINK")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="case labels")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="instead of the goal's")
    parser.add_argument("--jobs", type=int, default=1, help="solves at once; more disturb times")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Prints the table and how many goals were reached."""
    options = _options(words)
    for link in options.links:
        link_named(link)
    every = cases(options.profiles, options.links, options.budgets, options.time_limit)
    wanted = [
        case for case in every if any(fnmatch.fnmatch(case.label, only) for only in options.only)
    ]
    print_machine()
    print_headings(HEADINGS)
    verdicts = []
    for figures in written(measured_solves(wanted, options.jobs), options.csv):
        print_row(cells(figures))
        verdicts.append(verdict(figures))
    print(f"\nStall and bound as shares of the step with nothing moved; {len(wanted)} cases:")
    for word in sorted(set(verdicts)):
        print(f"  {word}: {verdicts.count(word)}")


if __name__ == "__main__":
    main(sys.argv[1:])
