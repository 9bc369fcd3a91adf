"""How much recompute beside swaps is worth: library steps over the link of their own device.

    python -m tests.benchmarks.recompute.bench_recompute
    python -m tests.benchmarks.recompute.bench_recompute --only 'resnet50*' --csv recompute.csv
    python -m tests.benchmarks.recompute.bench_recompute --sweep --time-limit 30 --csv sweep.csv

Each case is planned with both, one after the other in this process. The stall that swaps alone
cannot be below, and the bound on recompute and stall together, are bounds; recompute is the
profile's estimate of the ops run again, stall is simulated, seconds are measured. The goals: within
3% of the step above the bound on A100 and H200 for few large storages, within 1% for the others.
The sweep is over budgets and links; its goal is 3% everywhere for nets of few large storages, and
1% for transformers, whose plans take as long as they are given.
"""

import argparse
import fnmatch
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.solver import relaxed_bound
from planner.plan.plan import Without
from planner.problem.problem import problem_of
from planner.solving import solve
from profiles.hardware.links import link_named
from profiles.library.index import profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.profile_file import read_profile
from tests.benchmarks.tables import print_headings, print_machine, print_row, written

OWN_LINK = {"v100": "pcie3-x16", "a100": "pcie4-x16", "h200": "pcie5-x16"}
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step, its device's own link, a budget.

    Attributes:
        name: The library profile.
        share: The budget, as a share of the peak with nothing moved.
        min_size_bytes: Smaller storages stay; the default if None.
        goal: At most this share of the step above the bound.
        other_link: Name of a link; that of the device if None.
    """

    name: str
    share: float
    min_size_bytes: int | None
    goal: float
    other_link: str | None = None

    @property
    def link(self) -> str:
        """Name of the link."""
        own = (link for device, link in OWN_LINK.items() if f"-{device}" in self.name)
        return self.other_link or next(own)

    @property
    def label(self) -> str:
        """Names the case, for people and for `--only`."""
        return f"{self.name}/{self.share:.0%}/{self.link}"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came of a case; shares are of the step with nothing moved.

    Attributes:
        case: Its label.
        swap_bound: Stall that swaps alone cannot be below, by the relaxation (bound).
        bound: Recompute and stall that no plan can be below (bound).
        recompute: Of the plan (estimated, or measured, as the profile's times are).
        stall: Of the plan (simulated).
        goal: Asked for: at most so much above the bound.
        dropped: Storages that are dropped and rebuilt.
        swaps: Swaps of the plan.
        seconds: Wall time of planning (measured).
    """

    case: str
    swap_bound: float
    bound: float
    recompute: float
    stall: float
    goal: float
    dropped: int
    swaps: int
    seconds: float

    @property
    def above(self) -> float:
        """How far the plan is above the bound."""
        return self.recompute + self.stall - self.bound


COARSE = ("resnet50", "unet3d-144", "unet3d-192")
SWEPT_LINKS = (
    *("pcie3-x16", "pcie4-x16", "pcie5-x16", "nvlink2-ac922-4gpu", "nvlink2-ac922-6gpu"),
    *("nvlink-c2c-gh200", "nvlink-c2c-gb200"),
)


TRANSFORMERS = (
    *("gpt2-xl-v100-16gb", "gpt2-xl-a100-80gb", "gpt2-xl-h200"),
    *("llama-7b-a100-80gb", "llama-7b-h200"),
    *("llama-1b-rtx4090", "llama-3b-rtx4090", "llama-8b-rtx4090"),
    *("llama-8b-a100-80gb", "llama-13b-a100-80gb"),
)


def swept() -> Iterator[Case]:
    """Steps over links and budgets, nets of few large storages first."""
    devices = ("v100-16gb", "v100-32gb", "a100-80gb", "h200")
    coarse = [(f"{net}-{device}", 0.03) for device in devices for net in COARSE]
    for name, goal in (*coarse, *((name, 0.01) for name in TRANSFORMERS)):
        for link in SWEPT_LINKS:
            for share in (0.7, 0.5, 0.4, 0.3):
                yield Case(name=name, share=share, min_size_bytes=None, goal=goal, other_link=link)


def cases() -> Iterator[Case]:
    """The cases, coarse nets first."""
    for device in ("a100-80gb", "h200"):
        for net in COARSE:
            yield Case(name=f"{net}-{device}", share=0.5, min_size_bytes=None, goal=0.03)
    for device in ("v100-16gb", "v100-32gb"):
        for net in COARSE:
            for share in (0.5, 0.4):
                yield Case(name=f"{net}-{device}", share=share, min_size_bytes=None, goal=0.01)
    for device in ("v100-16gb", "a100-80gb", "h200"):
        for share in (0.7, 0.5, 0.4):
            yield Case(name=f"gpt2-xl-{device}", share=share, min_size_bytes=None, goal=0.01)
    for device in ("h200", "a100-80gb"):
        yield Case(name=f"llama-7b-{device}", share=0.5, min_size_bytes=16 * MIB, goal=0.01)


def figures_of(case: Case, time_limit_s: float) -> Figures | None:
    """Plans a case; None if its budget cannot be met."""
    profile = read_profile(profile_path(Path(f"library:{case.name}")))
    budget_bytes, link = int(case.share * profile.peak_bytes), link_named(case.link)
    problem = problem_of(
        profile, budget_bytes=budget_bytes, link=link, min_size_bytes=case.min_size_bytes
    )
    alone = relaxed_bound(problem, SolverName.HIGHS, Deadline.within(10 * time_limit_s))
    started_s = time.monotonic()
    try:
        plan = solve(
            profile,
            budget_bytes=budget_bytes,
            link=link,
            time_limit_s=time_limit_s,
            min_size_bytes=case.min_size_bytes,
            without=Without.NOTHING,
        )
    except BudgetError:
        return None
    about, step_us = plan.certificate, profile.step_us
    return Figures(
        case=case.label,
        swap_bound=alone.stall_us / step_us,
        bound=about.bound_beyond_us / step_us,
        recompute=about.recompute_us / step_us,
        stall=about.simulated_stall_us / step_us,
        goal=case.goal,
        dropped=sum(len(rebuild.drops) for rebuild in plan.rebuilds),
        swaps=len(plan.swaps),
        seconds=time.monotonic() - started_s,
    )


HEADINGS = (
    *("case", "swaps alone", "bound", "recompute", "stall", "both", "above", "goal"),
    *("dropped", "swaps", "seconds", "verdict"),
)


def cells(figures: Figures) -> tuple[str, ...]:
    """One row of the table."""
    both = figures.recompute + figures.stall
    shares = (figures.swap_bound, figures.bound, figures.recompute, figures.stall, both)
    return (
        figures.case,
        *(f"{100 * share:.2f}%" for share in (*shares, figures.above, figures.goal)),
        str(figures.dropped),
        str(figures.swaps),
        f"{figures.seconds:.0f}",
        "reached" if figures.above <= figures.goal else "missed",
    )


def main(words: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="case labels")
    parser.add_argument("--sweep", action="store_true", help="over links and budgets")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    chosen = swept() if options.sweep else cases()
    wanted = [
        case for case in chosen if any(fnmatch.fnmatch(case.label, only) for only in options.only)
    ]
    print_machine()
    print_headings(HEADINGS)
    planned = (figures_of(case, options.time_limit) for case in wanted)
    met = 0
    for figures in written((figures for figures in planned if figures is not None), options.csv):
        print_row(cells(figures))
        met += 1
    print(
        f"\nShares of the step with nothing moved. Budgets that cannot be met: {len(wanted) - met}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
