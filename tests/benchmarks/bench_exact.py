"""Our planner against the tensor x time integer program, as far as that goes.

    python -m tests.benchmarks.bench_exact --csv exact.csv

Steps of the library are made small (`tests.support.planning.coarse`): a few activations, whole time
units, the rest fixed. `tests.support.planning.oracle_ilp` then finds the least stall of any plan,
with a binary for every copy at every time. Both solve the very same small step, in which nothing
wraps round the step boundary. Times are measured; stalls of ours are simulated, in time units of
the small step.

One run on 2026-11-24, two cores shared with other work, 60 s for each exact solve: 26 small steps
were solved exactly, and ours was the optimum in all of them. Some of them, with the time of the
exact model's solver and of all of our planning:

    step, link, storages                         binaries   exact     ours
    unet3d-144-v100-16gb/pcie3-x16/3                  240    0.6 s   0.09 s      x7
    unet3d-144-v100-16gb/pcie3-x16/8                2,208   21.5 s   0.15 s    x140
    unet3d-144-v100-16gb/nvlink2-ac922-4gpu/10      2,360   10.1 s   0.14 s     x72
    resnet50-v100-16gb/nvlink2-ac922-4gpu/4           368    5.1 s   0.06 s     x80
    gpt2-xl-v100-16gb/pcie3-x16/5                     568   44.3 s   0.03 s  x1,759
    llama-7b-v100-16gb/pcie3-x16/5                    576   24.3 s   0.08 s    x289

The exact model took longer than 60 s from 10 storages on for the U-Net over PCIe 3, from 4 on for
ResNet-50 and from 6 on for GPT-2 and Llama. The whole steps, with one time unit a slot, would take
0.7, 3.7, 22 and 9 million binaries.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

from planner.plan.plan import Boundary, Without
from planner.solving import solve
from profiles.hardware.links import link_named
from profiles.library.index import profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile
from tests.benchmarks.measured_solve import watched_models
from tests.benchmarks.processes import HangError, messages_of
from tests.benchmarks.tables import print_headings, print_machine, print_row, written
from tests.support.planning.coarse import coarsened
from tests.support.planning.oracle import idles, smallest_budget_bytes
from tests.support.planning.oracle_ilp import least_stall_by_ilp

STEPS = (
    "unet3d-144-v100-16gb",
    "resnet50-v100-16gb",
    "gpt2-xl-v100-16gb",
    "llama-7b-v100-16gb",
)
LINKS = ("pcie3-x16", "nvlink2-ac922-4gpu")
GAPS = (3, 4, 5, 6, 8, 10)
UNITS_PER_GAP = 8
BUDGET_SHARE = 0.4
"""From the smallest budget that can be met (0) to the peak (1)."""


@dataclass(frozen=True, kw_only=True)
class ExactCase:
    """A small step: which step, for which link, of how many storages."""

    step: str
    link: str
    gaps: int

    @property
    def label(self) -> str:
        """Names the case."""
        return f"{self.step}/{self.link}/{self.gaps}"

    def small_step(self) -> tuple[Profile, int]:
        """The small step and its budget."""
        rate = link_named(self.link).d2h_bytes_per_us
        whole = read_profile(profile_path(Path(f"library:{self.step}")))
        units = UNITS_PER_GAP * self.gaps
        small = coarsened(whole, gaps=self.gaps, units=units, bytes_per_us=rate)
        peak_bytes = small.peak_bytes
        smallest_bytes = smallest_budget_bytes(small)
        return small, smallest_bytes + round(BUDGET_SHARE * (peak_bytes - smallest_bytes))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one way of solving came to.

    Attributes:
        stall_units: The stall found.
        bound_units: What it says no plan can be below.
        seconds: Wall time of all of it (measured).
        solver_seconds: Wall time of the solver alone (measured).
        variables: Of the largest model.
        binaries: How many of those are integer.
        rows: Rows of it.
    """

    stall_units: float
    bound_units: float
    seconds: float
    solver_seconds: float
    variables: int
    binaries: int
    rows: int


def exact(case: ExactCase) -> Outcome:
    """Solves the tensor x time program."""
    small, budget_bytes = case.small_step()

    def run() -> tuple[float, float]:
        least = least_stall_by_ilp(small, budget_bytes)
        if least is None:
            raise BudgetError("nothing meets the budget", smallest_budget_bytes=0)
        return least, least

    return _timed(run)


def ours(case: ExactCase) -> Outcome:
    """Solves with the planner."""
    small, budget_bytes = case.small_step()

    def run() -> tuple[float, float]:
        plan = solve(
            small,
            budget_bytes=budget_bytes,
            min_size_bytes=1,
            boundary=Boundary.RESIDENT,
            without=Without.RECOMPUTE,
        )
        return plan.certificate.simulated_stall_us, plan.certificate.bound_beyond_us

    return _timed(run)


def _timed(run: Callable[[], tuple[float, float]]) -> Outcome:
    started_s = time.perf_counter()
    with watched_models() as sizes:
        stall_units, bound_units = run()
    seconds = time.perf_counter() - started_s
    largest = max(sizes, default=None)
    return Outcome(
        stall_units=stall_units,
        bound_units=bound_units,
        seconds=seconds,
        solver_seconds=sum(size.seconds for size in sizes),
        variables=largest.variables if largest else 0,
        binaries=largest.binaries if largest else 0,
        rows=largest.rows if largest else 0,
    )


def within(
    solve_case: Callable[[ExactCase], Outcome], case: ExactCase, limit_s: float
) -> Outcome | None:
    """Runs in a process of its own; None if it takes longer."""
    try:
        found: Outcome = next(messages_of(_send, solve_case, case, limit_s=limit_s))
    except HangError:
        return None
    return found


def _send(
    solve_case: Callable[[ExactCase], Outcome], case: ExactCase, connection: Connection
) -> None:
    connection.send(solve_case(case))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One line: both ways side by side; figures of the exact one are None where it took too long.

    Attributes:
        case: The case's label.
        gaps: Storages that can be away.
        slots: Slots of the small step.
        step_units: Its length with nothing moved.
        our_stall_units: Ours (simulated).
        bound_units: Our bound.
        our_seconds: Ours, all of it (measured).
        exact_stall_units: The least stall.
        exact_seconds: The exact model's solver (measured).
        exact_binaries: Its binaries.
        exact_rows: Its rows.
        full_size_binaries: What it would need for the whole step with one time unit a slot: out,
            in, gone and back for every slot of every idle stretch.
    """

    case: str
    gaps: int
    slots: int
    step_units: float
    our_stall_units: float
    bound_units: float
    our_seconds: float
    exact_stall_units: float | None
    exact_seconds: float | None
    exact_binaries: int | None
    exact_rows: int | None
    full_size_binaries: int

    @property
    def verdict(self) -> str:
        """Whether ours is the optimum."""
        if self.exact_stall_units is None:
            return "too long"
        over = self.our_stall_units - self.exact_stall_units
        return "equal" if over < 1e-6 * (1 + self.exact_stall_units) else f"+{over:.0f}"

    def cells(self) -> tuple[str, ...]:
        """One row of the table."""

        def text(value: float | None, digits: int = 0) -> str:
            return "" if value is None else f"{value:.{digits}f}"

        ratio = None if self.exact_seconds is None else self.exact_seconds / self.our_seconds
        return (
            self.case,
            str(self.slots),
            text(self.step_units),
            text(self.exact_binaries),
            text(self.exact_rows),
            text(self.exact_seconds, 1),
            text(self.our_seconds, 2),
            "" if ratio is None else f"x{ratio:.1f}",
            text(self.exact_stall_units),
            text(self.our_stall_units),
            text(self.bound_units, 1),
            self.verdict,
            f"{self.full_size_binaries / 1e6:.1f}M",
        )


HEADINGS = (
    "case",
    "slots",
    "step",
    "binaries",
    "rows",
    "exact s",
    "ours s",
    "exact/ours",
    "optimum",
    "ours",
    "bound",
    "ours is",
    "binaries at full size",
)


def full_size_binaries(step: str) -> int:
    """Binaries of the exact model for the whole step, one time unit a slot."""
    profile = read_profile(profile_path(Path(f"library:{step}")))
    return 4 * sum(i.until - i.first + 1 for i in idles(profile))


def compared(case: ExactCase, limit_s: float) -> Figures:
    """Solves a case both ways."""
    small, _ = case.small_step()
    mine = ours(case)
    theirs = within(exact, case, limit_s)
    return Figures(
        case=case.label,
        gaps=len(small.storages),
        slots=len(small.slots),
        step_units=small.step_us,
        our_stall_units=mine.stall_units,
        bound_units=mine.bound_units,
        our_seconds=mine.seconds,
        exact_stall_units=theirs.stall_units if theirs else None,
        exact_seconds=theirs.solver_seconds if theirs else None,
        exact_binaries=theirs.binaries if theirs else None,
        exact_rows=theirs.rows if theirs else None,
        full_size_binaries=full_size_binaries(case.step),
    )


def _found(options: argparse.Namespace) -> Iterator[Figures]:
    """Goes up in size for each step and link until the exact model takes too long."""
    for step, link in product(options.steps, options.links):
        for gaps in options.gaps:
            figures = compared(ExactCase(step=step, link=link, gaps=gaps), options.time_limit)
            yield figures
            if figures.exact_seconds is None:
                break


def main(words: Sequence[str]) -> None:
    """Prints a row per small step."""
    parser = argparse.ArgumentParser(description="Ours against the tensor x time program.")
    parser.add_argument("--steps", nargs="+", default=STEPS, metavar="NAME")
    parser.add_argument("--links", nargs="+", default=LINKS, metavar="LINK")
    parser.add_argument("--gaps", nargs="+", type=int, default=GAPS)
    parser.add_argument("--time-limit", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    print_machine()
    print_headings(HEADINGS)
    rows = []
    for figures in written(_found(options), options.csv):
        print_row(figures.cells())
        rows.append(figures)
    solved = [figures for figures in rows if figures.exact_seconds is not None]
    equal = sum(figures.verdict == "equal" for figures in solved)
    print(f"\n{len(solved)} solved exactly, {equal} of them equal to ours")


if __name__ == "__main__":
    main(sys.argv[1:])
