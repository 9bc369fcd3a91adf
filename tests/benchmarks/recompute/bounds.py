"""The bounds on recompute and stall together against the exact least, on tiny random steps.

    python -m tests.benchmarks.recompute.bounds --seeds 5500

About one seed in five makes a step that the oracle can try in every way, and in which something may
be run again. No bound may be above the exact least. A row for each that is, and a summary.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_high

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.solver import relaxed_bound, whole_bound
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from tests.benchmarks.tables import print_headings, print_machine, print_row
from tests.support.recompute.oracle import RecomputeJob, recompute_jobs

HEADINGS = (
    *("seed", "swaps alone, us", "least, us", "loose bound", "tight bound", "with places"),
    "large ones whole",
)
ROUNDING = 1e-6
LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One step: the least wait of swaps alone, the least of all ways, and the bounds on that.

    The last two know where large storages may be rebuilt: all of them, and half of them.
    """

    seed: int
    swap_us: float
    least_us: float
    loose_us: float
    tight_us: float
    places_us: float
    large_us: float

    @property
    def bounds_us(self) -> tuple[float, ...]:
        """What must not be above the least."""
        return (self.loose_us, self.tight_us, self.places_us, self.large_us)

    @property
    def is_broken(self) -> bool:
        """Whether a bound is above what can be had."""
        return max(self.bounds_us) > self.least_us + ROUNDING * (1 + self.least_us)

    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        times_us = (self.swap_us, self.least_us, *self.bounds_us)
        return (str(self.seed), *(f"{us:.3f}" for us in times_us))


def figures_of(seed: int, job: RecomputeJob) -> Figures:
    problem, offers = job.problem(), job.offers()
    limit = Deadline.within(LIMIT_S)
    loose = relaxed_bound(problem, SolverName.HIGHS, limit, offers)
    tight = whole_bound(problem, SolverName.HIGHS, limit, mip_gap=0.0, offers=offers)
    places, large = (
        whole_bound(
            problem,
            SolverName.HIGHS,
            limit,
            mip_gap=0.0,
            offers=placed_offers(StepEffects(job.profile), problem, whole_bytes),
        )
        for whole_bytes in (1, median_high(gap.size_bytes for gap in problem.whole_gaps))
    )
    return Figures(
        seed=seed,
        swap_us=job.least_swap_us(),
        least_us=job.least_beyond_us(),
        loose_us=loose.stall_us,
        tight_us=tight.stall_us,
        places_us=places.stall_us,
        large_us=large.stall_us,
    )


def found(seeds: range) -> Iterator[Figures]:
    """Bounds and oracle for the steps of some seeds."""
    return (figures_of(seed, job) for seed, job in recompute_jobs(seeds))


def summary(rows: Sequence[Figures]) -> str:
    """How many there are, how many recompute helps, and how near the bounds come."""
    helped = sum(row.least_us < row.swap_us - ROUNDING for row in rows)
    broken = sum(row.is_broken for row in rows)
    below = [[row.least_us - us for us in row.bounds_us] for row in rows]
    loose, tight, places, large = ([row[n] for row in below] for n in range(4))
    slack_us = 1e-3
    return (
        f"{len(rows)} steps, recompute helps in {helped}; {broken} bounds above the least; the "
        f"loose bound is the least in {sum(us < slack_us for us in loose)}, the tight one in "
        f"{sum(us < slack_us for us in tight)}, {max(tight, default=0.0):.0f} us below it at most; "
        f"with places in {sum(us < slack_us for us in places)}, {max(places, default=0.0):.0f} us; "
        f"with large ones whole in {sum(us < slack_us for us in large)}"
    )


def main(words: Sequence[str]) -> None:
    """Prints a row per broken bound, and the summary."""
    parser = argparse.ArgumentParser(description="Bounds against every way to drop and swap.")
    parser.add_argument("--seeds", type=int, default=5500)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args(words)
    print_machine()
    print_headings(HEADINGS)
    rows = []
    for row in found(range(options.first, options.first + options.seeds)):
        rows.append(row)
        if row.is_broken:
            print_row(row.cells())
    print(f"\n{summary(rows)}")


if __name__ == "__main__":
    main(sys.argv[1:])
