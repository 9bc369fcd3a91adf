"""Replayed steps that run ops again, beside what was simulated for them.

    python -m tests.benchmarks.recompute.bench_measured
    python -m tests.benchmarks.recompute.bench_measured --only 'gpt2*' --rounds 20

Each workload is recorded on one thread of the CPU, planned with no host memory for the largest
budget at which the ops that run again take at least a tenth of the step, and trained without and
with the plan in turns. Measured is the median of the steps with the plan over that of the steps
without; simulated is the step of the plan over that of its profile. The last columns say where a
difference comes from, as shares of the step: what the ops that run again take in the profile, what
rebuilding, and noting ops, took when measured, and what hooks and the guard take of a step in which
the plan has nothing to do.

With nothing to copy, nothing waits: the step is work of the thread that trains, and all times here,
those of the profile too, are that thread's processor time. On an idle machine that is the step's
time; on a busy one it leaves out what the others took.

On 2026-11-29, two cores with eight other jobs: gpt2 at 50% took 24.4% more than without the plan,
simulated were 15.2%: 8.0% off. Rebuilding took 17.6% of the step, noting 1.2%, hooks and the guard
4.0%. With a batch of 8, whose ops are a quarter as long, it was 24.6% off: hooks and the guard took
11.3% then.
"""

import argparse
import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from planner.plan.plan import Plan
from planner.solving import solve
from profiles.hardware.links import EMULATED
from profiles.hooks.workload import Workload
from profiles.recording import clocks, trace
from profiles.recording.record import record
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Profile, WorkloadSource
from profiles.workloads.build import build
from runtime.recompute import capture, recipes
from runtime.replay.load import LoadedPlan
from runtime.replay.replay import Replay
from tests.benchmarks.bench_replay_overhead import processor_us
from tests.benchmarks.tables import print_headings, print_machine, print_row

STEPS = (
    ("unet3d", (("size", "64"), ("features", "16"))),
    ("resnet50", (("resolution", "128"), ("batch", "8"))),
    ("vit", (("size", "tiny"), ("resolution", "224"), ("batch", "32"))),
    ("gpt2", (("size", "tiny"), ("sequence", "256"), ("batch", "32"))),
    ("llama", (("size", "tiny"), ("sequence", "256"), ("batch", "32"), ("dtype", "fp32"))),
)
"""Ops of these are long enough for hooks and the guard not to take most of a step."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3)
"""Budgets, as shares of the peak with nothing moved."""
LEAST_RECOMPUTE = 0.1
"""Of the step."""
ROUNDS = 5
SETTLING = 3
"""Steps before those that are timed: the first are watched."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Steps without and with a plan; all times are of one step.

    Attributes:
        share: The budget, as a share of the peak with nothing moved.
        planned_us: Time of the ops that run again, from the profile.
        compute_us: Time of the step from the profile.
        without_us: Measured without the plan.
        idle_us: Measured with the same plan, had it nothing to do: hooks and the guard.
        with_us: Measured with it.
        again_us: Measured while rebuilding.
        noting_us: Measured while noting ops.
        ops: How many run again.
    """

    name: str
    share: float
    planned_us: float
    compute_us: float
    without_us: float
    idle_us: float
    with_us: float
    again_us: float
    noting_us: float
    ops: int

    @property
    def simulated(self) -> float:
        """Step with the plan over the step without, simulated."""
        return 1.0 + self.planned_us / self.compute_us

    @property
    def measured(self) -> float:
        """The same, measured."""
        return self.with_us / self.without_us


def figures_of(source: WorkloadSource, rounds: int = ROUNDS) -> Figures | str:
    """Records, plans and trains a workload; says why there is nothing to compare if so."""
    profile = record(build(source), source=source, link=EMULATED)
    found = _planned(profile)
    if found is None:
        return f"{source.reference}: no budget has a tenth of the step run again"
    share, plan = found
    alone, idle, workload = build(source), build(source), build(source)
    nothing = plan.model_copy(update={"rebuilds": ()})
    with _attached(nothing, idle) as nothing_done, _attached(plan, workload) as replay:
        ways = (alone.step, partial(_step, nothing_done, idle), partial(_step, replay, workload))
        turns = [[processor_us(way) for way in ways] for _ in range(SETTLING + rounds)]
        steps = list(replay.steps)[SETTLING:]
    without_us, idle_us, with_us = map(median, zip(*turns[SETTLING:], strict=True))
    return Figures(
        name=source.reference,
        share=share,
        planned_us=plan.certificate.recompute_us,
        compute_us=plan.certificate.compute_us,
        without_us=without_us,
        idle_us=idle_us,
        with_us=with_us,
        again_us=median(now.rebuild_us for now in steps),
        noting_us=median(now.capture_us for now in steps),
        ops=steps[0].ops_run_again,
    )


def _attached(plan: Plan, workload: Workload) -> Replay:
    # The plan without rebuilds does not hold the budget; that is not what is measured.
    roomy = plan.model_copy(update={"budget_bytes": 1 << 40})
    return LoadedPlan(roomy).attach(workload.model, workload.optimizer)


def _planned(profile: Profile) -> tuple[float, Plan] | None:
    """Returns the first budget at which enough is run again, and its plan."""
    for share in SHARES:
        try:
            plan = solve(
                profile,
                budget_bytes=int(share * profile.peak_bytes),
                host_budget_bytes=0,
                time_limit_s=20.0,
            )
        except BudgetError:
            return None
        if plan.certificate.recompute_us >= LEAST_RECOMPUTE * plan.certificate.compute_us:
            return share, plan
    return None


def _step(replay: Replay, workload: Workload) -> None:
    with replay.unwatched_step() as now:
        workload.step()
    assert now.fallback is None, now.fallback


def in_processor_time() -> None:
    """Has all that is measured from now on be processor time of the thread that asks."""
    clock: Any = SimpleNamespace(perf_counter_ns=time.thread_time_ns)
    clocks.time = trace.time = capture.time = recipes.time = clock  # type: ignore[attr-defined]


def line(figures: Figures) -> list[str]:
    """Returns a row of the table."""
    off = figures.measured / figures.simulated - 1.0
    return [
        figures.name,
        f"{figures.share:.0%}",
        f"{figures.without_us / 1e3:.1f}",
        f"{figures.with_us / 1e3:.1f}",
        f"{figures.measured:.3f}",
        f"{figures.simulated:.3f}",
        f"{off:+.1%}",
        f"{figures.ops}",
        f"{figures.planned_us / figures.compute_us:.1%}",
        f"{figures.again_us / figures.without_us:.1%}",
        f"{figures.noting_us / figures.without_us:.1%}",
        f"{figures.idle_us / figures.without_us - 1.0:.1%}",
    ]


HEADINGS = (
    *("step", "budget", "without ms", "with ms", "measured", "simulated", "off"),
    *("ops again", "planned", "again", "noting", "hooks, guard"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="names of workloads, as a pattern")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    settings = parser.parse_args(arguments)
    torch.set_num_threads(1)
    in_processor_time()
    print_machine()
    print_headings(HEADINGS)
    for reference, pairs in STEPS:
        if fnmatch.fnmatch(reference, settings.only):
            source = WorkloadSource(reference=reference, settings=pairs, seed=0)
            found = figures_of(source, settings.rounds)
            if isinstance(found, str):
                print(found, flush=True)
            else:
                print_row(line(found))


if __name__ == "__main__":
    main()
