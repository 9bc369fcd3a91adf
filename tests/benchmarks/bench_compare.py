"""Our plans against the best published baseline and against the bound, on the library's profiles.

    python -m tests.benchmarks.bench_compare [--only NAME] [--budget 30] [--link NAME]
        [--time-limit 60] [--csv FILE]

Every profile of the library at 30, 50 and 70% of its peak on three links: the two of the paper, and
the profile's own, or PCIe 5 where that is one of them. Stalls are simulated, as a share of the step
with nothing moved. `ratio` is our step over the best baseline's that fits; `over bound` our step
over the least that the bound allows. A baseline that beats ours is marked: it is a fault of the
planner.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from planner.baselines.case import Case, case_of
from planner.baselines.compare import Comparison, Row
from planner.baselines.ours import our_plan
from planner.baselines.registry import BASELINES
from planner.memory import slot_memory
from planner.solver_name import SolverName
from profiles.errors import BudgetError
from profiles.hardware import link_named
from profiles.library.index import PREFIX, profile_path, read_index
from profiles.profile import Profile, read_profile

BUDGETS_PERCENT = (30, 50, 70)
LINKS = ("pcie3-x16", "nvlink2-ac922-4gpu")
THIRD_LINK = "pcie5-x16"
TIED_US = 1.0
"""Stalls this near are one."""
NONE_FITS = "none fits"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One line of the table; shares are of the step with nothing moved."""

    profile: str
    link: str
    budget_percent: int
    compute_us: float
    ours_us: float
    bound_us: float
    seconds: float
    best: str = NONE_FITS
    best_us: float = math.inf

    @property
    def is_beaten(self) -> bool:
        return self.best_us < self.ours_us - TIED_US

    @property
    def ratio(self) -> float:
        """0 if no baseline meets the budget."""
        return (self.compute_us + self.ours_us) / (self.compute_us + self.best_us)

    @property
    def over_bound(self) -> float:
        return (self.compute_us + self.ours_us) / (self.compute_us + self.bound_us)

    def line(self) -> str:
        shares = [f"{100 * us / self.compute_us:8.2f}%" for us in self.stalls_us]
        mark = "  BEATEN" if self.is_beaten else ""
        return (
            f"{self.profile:22s} {self.link:19s} {self.budget_percent:3d}% {' '.join(shares)} "
            f"{self.ratio:7.4f} {self.over_bound:10.4f} {self.seconds:7.1f}  {self.best}{mark}"
        )

    @property
    def stalls_us(self) -> tuple[float, float, float]:
        return (self.ours_us, self.bound_us, self.best_us)


HEADING = (
    f"{'profile':22s} {'link':19s} {'at':>4s} {'ours':>9s} {'bound':>9s} {'best':>9s} "
    f"{'ratio':>7s} {'over bound':>10s} {'seconds':>7s}  best baseline"
)


def links_of(profile: Profile) -> tuple[str, ...]:
    own = profile.link.name
    return (*LINKS, own if own not in LINKS else THIRD_LINK)


def figures(case: Case, name: str, percent: int, time_limit_s: float) -> Figures | str:
    """One line, or why there is none."""
    started_s = time.monotonic()
    try:
        plan = our_plan(case, solver=SolverName.HIGHS, time_limit_s=time_limit_s)
    except BudgetError as error:
        needed = error.smallest_budget_bytes / max(case.problem.resident_bytes)
        return f"{name:22s} {case.problem.link.name:19s} {percent:3d}% needs {100 * needed:.1f}%"
    seconds = time.monotonic() - started_s
    bound_us = plan.certificate.bound_stall_us
    rows = Comparison(case, bound_us, is_full=False).rows(BASELINES)
    line = Figures(
        profile=name,
        link=case.problem.link.name,
        budget_percent=percent,
        compute_us=plan.certificate.compute_us,
        ours_us=plan.certificate.simulated_stall_us,
        bound_us=bound_us,
        seconds=seconds,
    )
    fitting = sorted((row for row in rows if row.fits), key=_stall_us)
    if not fitting:
        return line
    return replace(line, best=fitting[0].name, best_us=fitting[0].stall_us)


def cases(options: argparse.Namespace) -> Iterator[tuple[Case, str, int]]:
    for entry in read_index().entries:
        if options.only not in entry.name:
            continue
        profile = read_profile(profile_path(Path(f"{PREFIX}{entry.name}")))
        peak_bytes = max(slot.resident_bytes for slot in slot_memory(profile))
        for link in options.link or links_of(profile):
            for percent in options.budget or BUDGETS_PERCENT:
                budget_bytes = peak_bytes * percent // 100
                yield case_of(profile, budget_bytes, link_named(link)), entry.name, percent


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table line by line, and writes it."""
    parser = argparse.ArgumentParser(description="Ours against every baseline.")
    parser.add_argument("--only", default="", help="profiles whose name contains this")
    parser.add_argument("--budget", type=int, action="append", help="percent of the peak")
    parser.add_argument("--link", action="append", help="a link of the table")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds per plan")
    parser.add_argument("--csv", type=Path, default=Path("bench_compare.csv"))
    options = parser.parse_args(argv)
    found: list[Figures] = []
    print(HEADING, flush=True)
    for case, name, percent in cases(options):
        line = figures(case, name, percent, options.time_limit)
        print(line if isinstance(line, str) else line.line(), flush=True)
        if isinstance(line, Figures):
            found.append(line)
            _write(found, options.csv)
    beaten = sum(line.is_beaten for line in found)
    print(f"{len(found)} cases planned, {beaten} in which a baseline beats ours; simulated")


def _stall_us(row: Row) -> float:
    return row.stall_us


def _write(found: Sequence[Figures], path: Path) -> None:
    table = pd.DataFrame([asdict(line) for line in found])
    table["ratio"] = [line.ratio for line in found]
    table["over_bound"] = [line.over_bound for line in found]
    table.to_csv(path, index=False)


if __name__ == "__main__":
    main()
