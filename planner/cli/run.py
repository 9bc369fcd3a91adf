"""`plan run`: proves a plan by training without it and with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.measured_files import MeasuredFiles
from planner.cli.output import print_line, progress_bars
from planner.cli.proof_report import failures, print_proof
from planner.cli.worker_report import print_worker_proofs

if TYPE_CHECKING:
    from planner.plan import Plan
    from profiles.progress import Progress
    from runtime.proof_report import ProofReport


def run(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="From 'plan solve'.", show_default=False)
    ],
    steps: Annotated[
        int, typer.Option(min=2, help="Steps to train, each way; half of them are timed.")
    ] = 6,
    workload: Annotated[
        str | None,
        typer.Option(
            metavar="WORKLOAD",
            help="Build the step from here instead, such as path/to/file.py:function.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train with so many data-parallel workers on this machine; for a plan of a step "
            "recorded with 'plan profile --data-parallel'.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a step measured with the plan, beside the simulated one, as a trace for "
            "ui.perfetto.dev or chrome://tracing.",
        ),
    ] = None,
    slots: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write when each slot began and how long it stalled, simulated and measured.",
        ),
    ] = None,
) -> None:
    """Trains twice from one seed, without and with the plan, and compares every number."""
    from planner.plan import read_plan

    loaded = _with_workload(read_plan(plan), workload)
    measured = MeasuredFiles(trace, slots)
    measured.check(workers)
    with progress_bars() as progress:
        reports = _prove(loaded, workers, steps, measured, progress)
    if workers is None:
        print_proof(reports[0])
    else:
        print_worker_proofs(reports)
    for failure in (line for report in reports for line in failures(report)):
        print_line(f"plan: the proof failed: {failure}", error=True)
    measured.write(loaded, steps // 2)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def _with_workload(plan: "Plan", reference: str | None) -> "Plan":
    from profiles.workloads.build import check

    if reference is not None:
        source = plan.workload.model_copy(update={"reference": reference})
        plan = plan.model_copy(update={"workload": source})
    check(plan.workload)
    return plan


def _prove(
    plan: "Plan",
    workers: int | None,
    steps: int,
    measured: MeasuredFiles,
    progress: "Progress",
) -> tuple["ProofReport", ...]:
    if workers is not None:
        progress("starting the workers", 0, 1)
        from runtime.worker_processes import prove_with_workers

        return prove_with_workers(
            plan, count=workers, steps=steps, timed_steps=steps // 2, progress=progress
        )
    progress("loading the workload", 0, 1)
    from runtime.proof import attach_plan, prove
    from runtime.proof_workload import build_for

    report = prove(
        plan,
        build=lambda: build_for(plan),
        steps=steps,
        timed_steps=steps // 2,
        progress=progress,
        attach=measured.attach if measured.asked_for else attach_plan,
    )
    return (report,)
