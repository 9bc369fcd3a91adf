"""Our plans against the best published baseline and against the bound, on the library's profiles.

    python -m tests.benchmarks.bench_compare [--only NAME] [--budget 30] [--link NAME]
        [--time-limit 60] [--ours FILE] [--baselines FILE] [--csv FILE]

The cases are those of `tests.benchmarks.bench_baselines`; baselines are simulated unless the table
of that benchmark is given and has them, and ours are planned unless that of
`tests.benchmarks.bench_solve` is given and has them. With the table of baselines, what each of them
comes to beside ours is printed at the end. Stalls are simulated, as a share of the step
with nothing moved. `ratio` is our step over the best baseline's that fits; `over bound` our step
over the least that the bound allows. A baseline that beats ours is marked: that is a fault of the
planner.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from planner.heuristics.task import Task
from planner.ilp.deadline import SolverName
from planner.studies.compare import HEURISTICS, our_plan
from profiles.schema.errors import BudgetError
from tests.benchmarks.bench_baselines import (
    BaselineFigures,
    add_case_options,
    cases,
    figures_of,
)
from tests.benchmarks.tables import print_headings, print_row

CASE = ["profile", "link", "budget_percent"]
SUMMED = ("baseline", "cases it fits", "beats ours", "ours over its step: median", "best for us")
TIED_US = 1.0
"""Stalls this near are one."""
NONE_FITS = "none fits"

Known = dict[tuple[str, str, int], list[BaselineFigures]]
"""Every baseline's figures, by fingerprint of the profile, link and budget in percent."""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Our plan of a case, or the smallest budget that could be met; what is not known is NaN."""

    compute_us: float = math.nan
    stall_us: float = math.nan
    bound_us: float = math.nan
    seconds: float = math.nan
    smallest_budget_bytes: float = math.nan


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


def planned(case: Task, time_limit_s: float) -> Ours:
    """Plans a case."""
    started_s = time.monotonic()
    try:
        plan = our_plan(case, solver=SolverName.HIGHS, time_limit_s=time_limit_s)
    except BudgetError as error:
        return Ours(smallest_budget_bytes=error.smallest_budget_bytes)
    about = plan.certificate
    return Ours(
        compute_us=about.compute_us,
        stall_us=about.simulated_stall_us,
        bound_us=about.bound_beyond_us,
        seconds=time.monotonic() - started_s,
    )


def read_ours(path: Path | None) -> dict[str, Ours]:
    """Reads the table of `tests.benchmarks.bench_solve`: our plans by the labels of its cases."""
    if path is None:
        return {}
    names = [field.name for field in fields(Ours)]
    table = pd.read_csv(path)
    return {record["case"]: Ours(**{n: record[n] for n in names}) for record in _records(table)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): v for key, v in row.items()} for row in table.to_dict("records")]


def figures(case: Task, name: str, percent: int, ours: Ours, known: Known) -> Figures | str:
    """One line, or why there is none."""
    if math.isnan(ours.stall_us):
        needed = ours.smallest_budget_bytes / max(case.problem.resident_bytes)
        return f"{name:22s} {case.problem.link.name:19s} {percent:3d}% needs {100 * needed:.1f}%"
    line = Figures(
        profile=name,
        link=case.problem.link.name,
        budget_percent=percent,
        compute_us=ours.compute_us,
        ours_us=ours.stall_us,
        bound_us=ours.bound_us,
        seconds=ours.seconds,
    )
    key = (case.step.profile.fingerprint(), case.problem.link.name, percent)
    rows = known.get(key) or list(figures_of(case, name, percent))
    fitting = sorted((row for row in rows if row.fits), key=_stall_us)
    if not fitting:
        return line
    return replace(line, best=fitting[0].baseline, best_us=fitting[0].stall_us)


def read_baselines(path: Path | None) -> Known:
    """Reads the table of `tests.benchmarks.bench_baselines`, case by case."""
    known: Known = {}
    if path is not None:
        for record in _records(pd.read_csv(path)):
            row = BaselineFigures(**record)
            known.setdefault((row.fingerprint, row.link, row.budget_percent), []).append(row)
    return known


def summary(baselines: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Returns one line per baseline, in the order of the registry.

    Columns: `fits`, `beats`, both numbers of cases; `median`, `least`, both ratios of our step to
    its step over the cases it fits (NaN if none).

    Args:
        baselines: Columns of `BaselineFigures`.
        compared: Columns of `Figures`.
    """
    both = baselines.merge(compared.drop(columns="compute_us"), on=CASE)
    both = both[both["fits"]]
    both["ratio"] = (both["compute_us"] + both["ours_us"]) / (both["compute_us"] + both["stall_us"])
    both["beats"] = both["stall_us"] < both["ours_us"] - TIED_US
    grouped = both.groupby("baseline").agg(
        fits=("ratio", "size"),
        beats=("beats", "sum"),
        median=("ratio", "median"),
        least=("ratio", "min"),
    )
    table = grouped.reindex([baseline.name for baseline in HEURISTICS])
    counts = ["fits", "beats"]
    table[counts] = table[counts].fillna(0).astype(int)
    return table


def print_summary(table: pd.DataFrame, cases: int) -> None:
    """Prints what each baseline comes to over some cases."""
    print_headings(SUMMED)
    for row in table.itertuples():
        ratios = ["-" if pd.isna(ratio) else f"{ratio:.3f}" for ratio in (row.median, row.least)]
        print_row((str(row.Index), f"{row.fits} of {cases}", str(row.beats), *ratios))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table line by line, and writes it."""
    parser = argparse.ArgumentParser(description="Ours against every baseline.")
    add_case_options(parser)
    parser.add_argument("--ours", type=Path, help="what bench_solve wrote")
    parser.add_argument("--baselines", type=Path, help="what bench_baselines wrote")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds per plan")
    parser.add_argument("--csv", type=Path, default=Path("bench_compare.csv"))
    options = parser.parse_args(argv)
    known, solved = read_baselines(options.baselines), read_ours(options.ours)
    found: list[Figures] = []
    print(HEADING, flush=True)
    for case, name, percent in cases(options):
        label = f"{name}/{percent}%/{case.problem.link.name}"
        ours = solved.get(label) or planned(case, options.time_limit)
        line = figures(case, name, percent, ours, known)
        print(line if isinstance(line, str) else line.line(), flush=True)
        if isinstance(line, Figures):
            found.append(line)
            _write(found, options.csv)
    beaten = sum(line.is_beaten for line in found)
    print(f"{len(found)} cases planned, {beaten} in which a baseline beats ours; simulated")
    if options.baselines and found:
        compared = pd.DataFrame([asdict(line) for line in found])
        print_summary(summary(pd.read_csv(options.baselines), compared), len(found))


def _stall_us(row: BaselineFigures) -> float:
    return row.stall_us


def _write(found: Sequence[Figures], path: Path) -> None:
    table = pd.DataFrame([asdict(line) for line in found])
    table["ratio"] = [line.ratio for line in found]
    table["over_bound"] = [line.over_bound for line in found]
    table.to_csv(path, index=False)


if __name__ == "__main__":
    main()
