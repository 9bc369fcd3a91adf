"""What is tried on the asynchronous device at every run of the tests, tried on a GPU.

Built-in workloads at shares of their peak and random steps under random plans: small, so that they
take seconds, and of every kind that replay has to deal with.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from profiles.schema.units import size_text
from tests.device.built_in import WORKLOADS, Row, replay_built_in
from tests.device.random_steps import Outcome, try_random_step
from tests.gpu.results import Results, Table

SHARES = (0.6, 0.4, 0.0)
STEPS = 6
SOLVE_SECONDS = 2.0
RANDOM_STEPS = 30
COLUMNS = ("training", "plan", "budget", "peak", "swaps", "rebuilds", "what is wrong")


@dataclass(frozen=True, kw_only=True)
class SmallTraining:
    """What came of one training under a plan, measured.

    Attributes:
        name: Which.
        plan: How the plan was made.
        budget_bytes: Its budget; None of random steps.
        peak_bytes: Most bytes allocated in any step; None likewise.
        swaps: Storages that are copied in a step.
        rebuilds: Recipes that are run in a step.
        faults: What was wrong; nothing if all was right.
    """

    name: str
    plan: str
    budget_bytes: int | None
    peak_bytes: int | None
    swaps: int
    rebuilds: int
    faults: tuple[str, ...]


def try_small_trainings(
    results: Results, names: Iterable[str] = tuple(WORKLOADS), random_steps: int = RANDOM_STEPS
) -> bool:
    """Tries them all and writes `small.json` and `small.md`; returns whether all passed."""
    tried: list[SmallTraining] = []
    for name in names:
        print(f"{name}, small ...", file=sys.stderr)
        rows = replay_built_in(name, SHARES, steps=STEPS, time_limit_s=SOLVE_SECONDS)
        tried += map(_of_built_in, rows)
        _write(results, tried)
    print(f"{random_steps} random steps ...", file=sys.stderr)
    tried += map(_of_random, map(try_random_step, range(random_steps)))
    _write(results, tried)
    return not any(training.faults for training in tried)


def _of_built_in(row: Row) -> SmallTraining:
    return SmallTraining(
        name=row.name,
        plan=f"{row.share:.0%} of the peak" if row.share else "the smallest budget",
        budget_bytes=row.budget_bytes,
        peak_bytes=row.peak_bytes,
        swaps=row.swaps,
        rebuilds=row.rebuilds,
        faults=row.faults,
    )


def _of_random(outcome: Outcome) -> SmallTraining:
    return SmallTraining(
        name=f"random step {outcome.seed}",
        plan=outcome.plan,
        budget_bytes=None,
        peak_bytes=None,
        swaps=outcome.swaps,
        rebuilds=outcome.rebuilds,
        faults=outcome.faults,
    )


def _write(results: Results, tried: list[SmallTraining]) -> None:
    """After each workload: what an interruption leaves is worth having."""
    table = Table("Small trainings (measured)", COLUMNS, [_cells(training) for training in tried])
    results.write("small", tried, [table])


def _cells(training: SmallTraining) -> tuple[str, ...]:
    sizes = (training.budget_bytes, training.peak_bytes)
    return (
        training.name,
        training.plan,
        *("" if size_bytes is None else size_text(size_bytes) for size_bytes in sizes),
        str(training.swaps),
        str(training.rebuilds),
        "; ".join(training.faults) or "nothing",
    )
