"""Every baseline on the library's profiles: what it stalls, what it moves, whether it fits.

    python -m tests.benchmarks.bench_baselines --csv rows.csv --stalls baselines.csv
        [--only NAME] [--budget 30] [--link NAME]

The cases are those of `tests.benchmarks.bench_solve`: every profile of the library at 30, 50 and
70% of its peak on three links. Stalls and bytes are simulated; seconds are
those a rule took to plan (measured). `tests.benchmarks.bench_compare` reads the table.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from planner.heuristics.task import Task, task_of
from planner.studies.compare import HEURISTICS, Comparison
from profiles.hardware.links import link_named
from profiles.library.index import PREFIX, profile_path, read_index
from profiles.schema.profile_file import read_profile
from tests.benchmarks.bench_solve import BUDGET_SHARES, LINKS

BUDGETS_PERCENT = tuple(round(100 * share) for share in BUDGET_SHARES)


@dataclass(frozen=True, kw_only=True)
class BaselineFigures:
    """One baseline on one case.

    Attributes:
        profile: Name of the library's profile.
        fingerprint: Its digest: figures of another version are none of this one.
        link: Name of the link.
        budget_percent: The budget, as a share of the peak with nothing moved.
        baseline: Its name.
        fits: Whether it meets the budget.
        compute_us: Time of the step with nothing moved (as the profile has it).
        stall_us: With its own timing (simulated).
        moved_bytes: Copied to the host per step (simulated).
        peak_bytes: Most bytes resident (simulated).
        seconds: Time the rule and its simulation took (measured).
    """

    profile: str
    fingerprint: str
    link: str
    budget_percent: int
    baseline: str
    fits: bool
    compute_us: float
    stall_us: float
    moved_bytes: int
    peak_bytes: int
    seconds: float


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose cases."""
    parser.add_argument("--only", default="", help="profiles whose name contains this")
    parser.add_argument("--budget", type=int, action="append", help="percent of the peak")
    parser.add_argument("--link", action="append", help="a link of the table")


def cases(options: argparse.Namespace) -> Iterator[tuple[Task, str, int]]:
    """Yields each case with the name of its profile and its budget in percent."""
    for entry in read_index().entries:
        if options.only not in entry.name:
            continue
        profile = read_profile(profile_path(Path(f"{PREFIX}{entry.name}")))
        peak_bytes = profile.peak_bytes
        for link in options.link or LINKS:
            for percent in options.budget or BUDGETS_PERCENT:
                budget_bytes = peak_bytes * percent // 100
                yield task_of(profile, budget_bytes, link_named(link)), entry.name, percent


def figures_of(case: Task, name: str, percent: int) -> Iterator[BaselineFigures]:
    """Simulates every baseline on one case."""
    # No bound is asked for: these figures do not depend on it.
    comparison = Comparison(case, 0.0, is_full=False)
    fingerprint = case.step.profile.fingerprint()
    for baseline in HEURISTICS:
        started_s = time.perf_counter()
        row = comparison.row(baseline)
        yield BaselineFigures(
            profile=name,
            fingerprint=fingerprint,
            link=case.problem.link.name,
            budget_percent=percent,
            baseline=row.name,
            fits=row.fits,
            compute_us=row.compute_us,
            stall_us=row.stall_us,
            moved_bytes=row.moved_bytes,
            peak_bytes=row.peak_bytes,
            seconds=time.perf_counter() - started_s,
        )


def stall_percents(found: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per case, one column per baseline: its stall in percent of the step.

    NaN where its plan does not fit the budget.

    Args:
        found: Columns of `BaselineFigures`.
    """
    percents = (100 * found["stall_us"] / found["compute_us"]).where(found["fits"]).round(2)
    table = found.assign(percent=percents).pivot(
        index=["profile", "link", "budget_percent"], columns="baseline", values="percent"
    )
    return table[[baseline.name for baseline in HEURISTICS]]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per case, and writes the table after each."""
    parser = argparse.ArgumentParser(description="Every baseline, simulated.")
    add_case_options(parser)
    parser.add_argument("--csv", type=Path, default=Path("bench_baselines.csv"))
    parser.add_argument("--stalls", type=Path, help="one row per case there, stalls in percent")
    options = parser.parse_args(argv)
    found: list[BaselineFigures] = []
    for case, name, percent in cases(options):
        rows = list(figures_of(case, name, percent))
        found += rows
        pd.DataFrame([asdict(row) for row in found]).to_csv(options.csv, index=False)
        fit = f"{sum(row.fits for row in rows)} of {len(rows)} fit"
        print(f"{name} {case.problem.link.name} {percent}%: {fit}", flush=True)
    if options.stalls:
        stall_percents(pd.DataFrame([asdict(row) for row in found])).to_csv(options.stalls)


if __name__ == "__main__":
    main()
