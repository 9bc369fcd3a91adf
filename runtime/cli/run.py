"""`plan run`: proves a plan by training without it and with it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.course_sets import holds_courses
from planner.cli.options import PlanFile
from planner.cli.output import print_line, progress_bars, wrote
from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from planner.plan.plan_set import PlanSet, read_plan_set
from profiles.schema.errors import QuantityError, WorkloadError
from profiles.schema.files import check_writable, write_atomically
from profiles.schema.progress import Progress
from runtime.cli.proof_report import failures, print_proofs
from runtime.cli.run_courses import run_courses

if TYPE_CHECKING:
    from profiles.hooks.workload import Workload
    from runtime.proof.report import ProofReport
    from runtime.replay.replay import Replay


def run(
    plan: PlanFile,
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
    """Trains twice from one seed, without and with the plan, and compares every number.

    The plan names the Python file whose function builds the step, and that file is run: run plans
    only of those whose code you would run. A relative path is looked for here, and then beside the
    plan.
    """
    files = _MeasuredFiles(trace, slots)
    if holds_courses(plan, PlanSet):
        _run_courses(plan, workload, steps, is_alone=workers is None and not files.asked_for)
        return
    loaded = _with_workload(read_plan(plan), plan, workload)
    files.check(workers)
    with progress_bars() as progress:
        if workers is not None:
            reports = _prove_with_workers(loaded, workers, steps, progress)
        else:
            reports = (_prove(loaded, steps, files, progress),)
    print_proofs(reports, of_workers=workers is not None)
    for failure in (line for report in reports for line in failures(report)):
        print_line(f"plan: the proof failed: {failure}", error=True)
    files.write(loaded, steps // 2)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def _run_courses(plans: Path, workload: str | None, steps: int, *, is_alone: bool) -> None:
    """Proves the plans of several courses."""
    if not is_alone:
        raise QuantityError(
            f"{plans}: plans of several courses are proved by one process, without --workers, "
            f"--trace or --slots. Leave those out, or name one course, as in '{plans}#1'."
        )
    run_courses(_courses_with_workload(read_plan_set(plans), plans, workload), steps)


@dataclass
class _MeasuredFiles:
    """Where a trace and the slots' times go, if anywhere, and the replay that is timed for them."""

    trace: Path | None
    slots: Path | None
    replay: "Replay | None" = None

    @property
    def asked_for(self) -> bool:
        return self.trace is not None or self.slots is not None

    def check(self, workers: int | None) -> None:
        """Fails now, not after the training, if something cannot be written.

        Raises:
            FileError: A path cannot be written.
            QuantityError: There are several workers, each in a process of its own.
        """
        if self.asked_for and workers is not None:
            raise QuantityError(
                f"--workers {workers} does not go with --trace or --slots, which time this "
                "process. Trace a worker from Python with LoadedPlan.attach_traced."
            )
        for path in (self.trace, self.slots):
            if path is not None:
                check_writable(path)

    def attach(self, plan: Plan, workload: "Workload") -> "Replay":
        """Attaches a plan to a workload, to be timed from within."""
        from runtime.replay.load import LoadedPlan

        self.replay = LoadedPlan(plan).attach_traced(workload.model, workload.optimizer)
        return self.replay

    def write(self, plan: Plan, timed_steps: int) -> None:
        """Writes the files asked for. The last steps count; the ones before were watched."""
        if not self.asked_for:
            return
        measured = self.replay.timelines()[-timed_steps:] if self.replay else ()
        if not measured:
            print("plan: no step was replayed to its end: none to write", file=sys.stderr)
            return
        if self.trace is not None:
            from planner.report.perfetto import write_trace
            from runtime.replay.timeline import typical

            write_trace(plan, self.trace, typical(measured))
            wrote(self.trace)
        if self.slots is not None:
            from planner.report.tables import slot_times_table

            table = slot_times_table(plan, measured)
            write_atomically(table.to_csv(float_format="%.3f").encode(), self.slots)
            wrote(self.slots)


def _with_workload(plan: Plan, path: Path, reference: str | None) -> Plan:
    """The plan with the workload that is to be built: the one given, or its own where it is."""
    from profiles.workloads.build import check

    source = plan.workload
    if reference is None:
        reference = _found(source.reference, path)
    plan = plan.model_copy(update={"workload": source.model_copy(update={"reference": reference})})
    check(plan.workload)
    return plan


def _courses_with_workload(plans: PlanSet, path: Path, reference: str | None) -> PlanSet:
    courses = tuple(
        entry.model_copy(update={"plan": _with_workload(entry.plan, path, reference)})
        for entry in plans.courses
    )
    return plans.model_copy(update={"courses": courses})


def _found(reference: str, plan: Path) -> str:
    """Where the file that a plan names is: paths are written as they were given to 'plan profile'.

    Raises:
        WorkloadError: It is nowhere.
    """
    named, colon, function = reference.rpartition(":")
    if not colon or Path(named).is_file():
        return reference
    beside = plan.resolve().parent / named
    if beside.is_file():
        return f"{beside}:{function}"
    looked = "" if Path(named).is_absolute() else f", neither in {Path.cwd()} nor beside the plan"
    raise WorkloadError(
        f"{named}: there is no such file{looked}. The plan names it as 'plan profile' was given "
        f"it: run the command in the same folder, or add --workload path/to/{Path(named).name}:"
        f"{function}."
    )


def _prove(plan: Plan, steps: int, files: _MeasuredFiles, progress: Progress) -> "ProofReport":
    progress("loading the workload", 0, 1)
    from runtime.proof.proof import attach_plan, prove
    from runtime.proof.workers import build_for

    return prove(
        plan,
        build=lambda: build_for(plan),
        steps=steps,
        timed_steps=steps // 2,
        progress=progress,
        attach=files.attach if files.asked_for else attach_plan,
    )


def _prove_with_workers(
    plan: Plan, workers: int, steps: int, progress: Progress
) -> tuple["ProofReport", ...]:
    progress("starting the workers", 0, 1)
    from runtime.proof.workers import prove_with_workers

    return prove_with_workers(
        plan, count=workers, steps=steps, timed_steps=steps // 2, progress=progress
    )
