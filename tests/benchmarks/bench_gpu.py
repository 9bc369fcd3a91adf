"""The same budget for a plan, for three baselines, and for nothing.

    python -m tests.benchmarks.bench_gpu                   # on the GPU; `make gpu-bench`
    python -m tests.benchmarks.bench_gpu --device cpu      # every code path, tiny, on the CPU

For each workload: what it takes with nothing done gives the budget. Then each method trains within
it, enforced by the device, and the largest batch or volume is found that it can still train. A
method that does not fit is measured without the budget, and the table says so. Step times count
from a device at rest to a device at rest.

The baselines: `torch.autograd.graph.save_on_cpu`; a fixed window like torchtune's
`OffloadActivations` (`tests.gpu.fixed_window`); `torch.utils.checkpoint` around every block; and
nothing. All figures are measured. On the CPU they say nothing about a GPU: the device is emulated,
and there baselines hold their host copies in what counts as device memory.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from profiles.recording.device import device_at_hand
from profiles.schema.errors import BudgetError
from profiles.schema.profile import CUDA, Link
from profiles.schema.units import size_text, time_text
from runtime.proof.limited_device import StepFigures
from tests.gpu.bench_device import BenchAccelerator, BenchDevice, BenchEmulator
from tests.gpu.cases import COMPARED, TINY, Case
from tests.gpu.methods import Method, Task, Trainee, trained_by
from tests.gpu.results import ROOT, Results, Table

STEPS_TO_SETTLE = 3
"""The first makes lazy optimizer states; a replay's first steps are watched op by op."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        cases: The workloads.
        timed_steps: Steps that a median is taken of.
    """

    cases: Sequence[Case]
    timed_steps: int


FULL = Effort(cases=COMPARED, timed_steps=7)
SMALL = Effort(cases=TINY, timed_steps=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one workload.

    Attributes:
        workload: Which, with its settings.
        method: The method.
        budget_bytes: The budget.
        within_budget: Whether it trained with the budget enforced.
        why_not: What it said if it did not.
        step_us: Median step; without the budget if it did not fit. None if it never ran.
        peak_bytes: Most bytes allocated then.
        reserved_bytes: Most bytes the allocator held then; None where there is none.
        grows: The setting that was made larger.
        largest: The largest value that still trained within the budget; None if none did.
    """

    workload: str
    method: str
    budget_bytes: int
    within_budget: bool
    why_not: str
    step_us: float | None
    peak_bytes: int | None
    reserved_bytes: int | None
    grows: str
    largest: int | None


def compare(case: Case, limited: BenchDevice, link: Link, timed_steps: int) -> list[Row]:
    """Measures all methods on one workload."""
    nothing = _task(case, 1, link, timed_steps)
    free = _figures(Method.NOTHING, nothing, limited, timed_steps, nullcontext)
    budget_bytes = int(free.peak_bytes * case.budget_share)
    task = _task(case, budget_bytes, link, timed_steps)
    return [_row(method, case, task, limited, timed_steps) for method in Method]


def _task(case: Case, budget_bytes: int, link: Link, timed_steps: int, **changes: str) -> Task:
    return Task(
        source=case.source(**changes),
        budget_bytes=budget_bytes,
        link=link,
        timed_steps=timed_steps,
    )


def _row(method: Method, case: Case, task: Task, limited: BenchDevice, timed_steps: int) -> Row:
    why_not = ""
    figures: StepFigures | None = None
    try:
        figures = _figures(
            method, task, limited, timed_steps, lambda: limited.limit(task.budget_bytes)
        )
    except (torch.OutOfMemoryError, BudgetError) as error:
        why_not = " ".join(str(error).split())
    if why_not and method is not Method.SWAPPLAN:
        figures = _figures(method, task, limited, timed_steps, nullcontext)
    print(f"  {method.value}: {why_not or 'trained within the budget'}", file=sys.stderr)
    return Row(
        workload=case.title,
        method=method.value,
        budget_bytes=task.budget_bytes,
        within_budget=not why_not,
        why_not=why_not,
        step_us=figures.step_us if figures else None,
        peak_bytes=figures.peak_bytes if figures else None,
        reserved_bytes=figures.reserved_bytes if figures else None,
        grows=case.grows,
        largest=largest(case.values, lambda value: _trains(method, case, task, limited, value)),
    )


def _figures(
    method: Method,
    task: Task,
    limited: BenchDevice,
    timed_steps: int,
    limit: Callable[[], AbstractContextManager[None]],
) -> StepFigures:
    """Median time and highest peaks of some steps, after those that settle."""
    try:
        with trained_by(method, task, limited) as trainee, limit():
            for _ in range(STEPS_TO_SETTLE):
                limited.measure(trainee.workload, trainee.around)
            steps = [_measured(trainee, limited) for _ in range(timed_steps)]
    finally:
        limited.tidy()
    reserved = [step.reserved_bytes for step in steps if step.reserved_bytes is not None]
    return StepFigures(
        step_us=median(step.step_us for step in steps),
        peak_bytes=max(step.peak_bytes for step in steps),
        reserved_bytes=max(reserved, default=None),
    )


def _measured(trainee: Trainee, limited: BenchDevice) -> StepFigures:
    return limited.measure(trainee.workload, trainee.around)


def _trains(method: Method, case: Case, task: Task, limited: BenchDevice, value: int) -> bool:
    larger = _task(case, task.budget_bytes, task.link, task.timed_steps, **{case.grows: str(value)})
    try:
        _figures(method, larger, limited, 1, lambda: limited.limit(task.budget_bytes))
    except (torch.OutOfMemoryError, BudgetError):
        return False
    return True


def largest(values: Sequence[int], trains: Callable[[int], bool]) -> int | None:
    """Returns the largest value that trains, by bisection; None if not even the first does.

    Args:
        values: In ascending order; what a step takes grows with them.
        trains: Whether a step of this size does.
    """
    fits, too_large = -1, len(values)
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if trains(values[middle]):
            fits = middle
        else:
            too_large = middle
    return None if fits < 0 else values[fits]


def table(rows: Sequence[Row]) -> Table:
    """Returns the comparison of one workload for readers."""
    columns = (
        "method",
        "within the budget",
        "step",
        "peak",
        "reserved",
        f"largest {rows[0].grows}",
    )
    title = f"{rows[0].workload}, budget {size_text(rows[0].budget_bytes)} (measured)"
    return Table(title, columns, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        "yes" if row.within_budget else "no; measured without it" if row.step_us else "no",
        time_text(row.step_us) if row.step_us else "",
        size_text(row.peak_bytes) if row.peak_bytes else "",
        size_text(row.reserved_bytes) if row.reserved_bytes else "",
        "none" if row.largest is None else str(row.largest),
    )


def bench(limited: BenchDevice, effort: Effort, root: Path = ROOT) -> Path:
    """Compares all methods on all workloads and writes `bench.json` and `bench.md`."""
    results = Results(limited, root)
    link = limited.link()
    groups = []
    for case in effort.cases:
        print(f"{case.reference} ...", file=sys.stderr)
        groups.append(compare(case, limited, link, effort.timed_steps))
        # Written after each workload: what an interruption leaves is worth having.
        rows = [row for group in groups for row in group]
        results.write("bench", rows, [table(group) for group in groups])
    return results.folder


def main() -> None:
    """Runs the comparison on the device asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    wanted = parser.parse_args()
    if wanted.device == "cpu":
        bench(BenchEmulator(), SMALL)
    elif torch.cuda.is_available():
        bench(BenchAccelerator(device_at_hand(CUDA)), FULL)
    else:
        print("There is no GPU here: nothing was compared. Try --device cpu for the code paths.")


if __name__ == "__main__":
    main()
