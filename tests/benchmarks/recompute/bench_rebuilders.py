"""Our plans against published ways to run ops again, each at the peak that one has.

    python -m tests.benchmarks.recompute.bench_rebuilders [--only NAME] [--baseline NAME]
        [--budget 50] [--time-limit 20] [--csv FILE]

The cases are library steps over the link of their own device. Every baseline is simulated; ours is
planned for a budget that is the baseline's own peak, since most of them take none, or for the
budget where the baseline met that with less. `ratio` is our step over its step: above 1 we are
behind, which is a fault of the planner. `less` is how many times less ours recomputes and waits.
At the end stand the medians of that against full checkpointing, for networks of each kind. Times
are simulated from estimated profiles.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from planner.heuristics.recomputing.catalog import RECOMPUTING
from planner.heuristics.recomputing.checkpointing import FULL
from planner.heuristics.recomputing.choice import Choice, RecomputeTask, Recomputing
from planner.heuristics.task import Task, task_of
from planner.ilp.deadline import SolverName
from planner.plan.plan import Without
from planner.studies.compare import our_plan
from planner.studies.rows import Clock
from profiles.hardware.links import link_named
from profiles.library.index import PREFIX, profile_path, read_index
from profiles.schema.errors import BudgetError
from profiles.schema.profile_file import read_profile
from tests.benchmarks.recompute.bench_recompute import OWN_LINK
from tests.benchmarks.tables import print_headings, print_machine, print_row, written

HEADINGS = ("case", "baseline", "peak", "recompute", "stall", "ours", "less", "ratio")
CONVOLUTIONS = ("resnet", "unet")
"""How the names of profiles of convolutional networks begin."""
SECONDS_EACH = 30.0
"""A baseline stops trying after so long."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One baseline beside ours; shares are of the step with nothing moved.

    Attributes:
        case: Profile and budget.
        baseline: Its name.
        peak: Its peak, as a share of the peak with nothing moved (simulated).
        recompute: Time of what it runs again (from the profile).
        stall: What compute waits (simulated).
        ours: Recompute and stall of our plan within that peak; infinite if there is none.
        stopped: Whether the baseline had no time for all it tries.
    """

    case: str
    baseline: str
    peak: float
    recompute: float
    stall: float
    ours: float
    stopped: bool

    @property
    def ratio(self) -> float:
        """Our step over its step."""
        return (1 + self.ours) / (1 + self.recompute + self.stall)

    @property
    def less(self) -> float:
        """How many times less ours recomputes and waits."""
        theirs = self.recompute + self.stall
        return theirs / self.ours if self.ours > 0 else float("inf")


def figures_of(
    task: Task, case: str, time_limit_s: float, baselines: Sequence[Recomputing] = RECOMPUTING
) -> Iterator[Figures]:
    """Compares baselines on one task."""
    known: dict[int, float] = {}
    asked = RecomputeTask(task)
    compute_us, held_bytes = task.problem.compute_us, max(task.problem.resident_bytes)
    for baseline in baselines:
        choice = baseline.rule(asked, Clock(SECONDS_EACH).share(1))
        budget_bytes = _budget_bytes(choice, task.problem.budget_bytes)
        if not choice.found and not choice.swaps:
            continue
        if budget_bytes not in known:
            known[budget_bytes] = _ours_us(task.with_budget(budget_bytes), time_limit_s)
        yield Figures(
            case=case,
            baseline=baseline.name,
            peak=choice.peak_bytes / held_bytes,
            recompute=choice.recompute_us / compute_us,
            stall=choice.stall_us / compute_us,
            ours=known[budget_bytes] / compute_us,
            stopped=choice.was_stopped,
        )


def _budget_bytes(choice: Choice, budget_bytes: int) -> int:
    """What ours may hold: as much as it does, or as the budget allows if it meets that closely."""
    close = 0 <= budget_bytes - choice.peak_bytes <= budget_bytes // 100
    return budget_bytes if close else choice.peak_bytes


def _ours_us(task: Task, time_limit_s: float) -> float:
    try:
        about = our_plan(
            task, solver=SolverName.HIGHS, time_limit_s=time_limit_s, without=Without.NOTHING
        ).certificate
    except BudgetError:
        return float("inf")
    return about.recompute_us + about.simulated_stall_us


def cases(only: str, percents: Sequence[int]) -> Iterator[tuple[Task, str]]:
    """Yields tasks with what they are called."""
    for entry in read_index().entries:
        link = next((link for device, link in OWN_LINK.items() if f"-{device}" in entry.name), None)
        if only not in entry.name or link is None:
            continue
        profile = read_profile(profile_path(Path(f"{PREFIX}{entry.name}")))
        for percent in percents:
            budget_bytes = profile.peak_bytes * percent // 100
            yield task_of(profile, budget_bytes, link_named(link)), f"{entry.name}/{percent}%"


def line(row: Figures) -> tuple[str, ...]:
    """One row of the table."""
    shares = (row.peak, row.recompute, row.stall, row.ours)
    mark = " BEHIND" if row.ratio > 1.001 else ""
    stopped = " (stopped)" if row.stopped else ""
    name = f"{row.baseline}{stopped}"
    percents = (f"{share:.1%}" for share in shares)
    return row.case, name, *percents, f"{row.less:.1f}x", f"{row.ratio:.3f}{mark}"


def medians(rows: Sequence[Figures]) -> Iterator[str]:
    """Says how much less ours recomputes and waits than full checkpointing, within its peak."""
    ours = {row.case: row for row in rows if row.baseline == FULL.name}
    for kind in (True, False):
        less = [row.less for case, row in ours.items() if case.startswith(CONVOLUTIONS) is kind]
        if less:
            what = "convolutional networks" if kind else "transformers"
            yield (
                f"{what}: {median(less):.1f} times less than checkpointing in the median of "
                f"{len(less)} ({min(less):.1f} to {max(less):.1f})"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per case and baseline."""
    parser = argparse.ArgumentParser(description="Ours against those that run ops again.")
    parser.add_argument("--only", default="", help="profiles whose name contains this")
    parser.add_argument("--baseline", help="this one alone")
    parser.add_argument("--budget", type=int, action="append", help="percent of the peak")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds per plan of ours")
    parser.add_argument("--csv", type=Path, default=Path("bench_rebuilders.csv"))
    options = parser.parse_args(argv)
    print_machine()
    print_headings(HEADINGS)
    baselines = [one for one in RECOMPUTING if options.baseline in (None, one.name)]
    found = (
        row
        for task, case in cases(options.only, options.budget or [60])
        for row in figures_of(task, case, options.time_limit, baselines)
    )
    rows = []
    for row in written(found, options.csv):
        print_row(line(row))
        rows.append(row)
    behind = sum(row.ratio > 1.001 for row in rows)
    print(f"\n{behind} of {len(rows)} rows in which ours is behind; all simulated")
    print(*medians(rows), sep="\n")


if __name__ == "__main__":
    main()
