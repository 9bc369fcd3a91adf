"""`plan run` for a file of several courses."""

from typing import TYPE_CHECKING

import typer

from planner.cli.output import print_line, print_rows, print_table, progress_bars
from planner.plan.plan_set import PlanSet
from profiles.schema.units import size_text
from runtime.cli.proof_report import verdict

if TYPE_CHECKING:
    from runtime.proof.courses import CoursesReport


def run_courses(plans: PlanSet, steps: int) -> None:
    """Proves the plans by training without and with them; ends with code 1 if that fails."""
    with progress_bars() as progress:
        progress("loading the workload", 0, 1)
        from runtime.proof.courses import prove_courses
        from runtime.proof.workers import build_for

        report = prove_courses(
            plans,
            build=lambda: build_for(plans.courses[0].plan),
            steps=steps,
            progress=progress,
        )
    _print_report(report)
    for failure in report.failures:
        print_line(f"plan: the proof failed: {failure}", error=True)
    print(f"Proof: {'FAILED' if report.failures else 'passed'}")
    if report.failures:
        raise typer.Exit(1)


def _print_report(report: "CoursesReport") -> None:
    losses = f"{report.losses[0]:.6f} .. {report.losses[-1]:.6f}"
    same_losses, same_tensors = verdict(report.losses_equal), verdict(report.tensors_equal)
    tensors, peak = str(report.tensors_compared), size_text(report.peak_with_bytes)
    print_table(
        "Trained from one seed: without the plans, and with them",
        ("", "without", "with the plans", "figures are"),
        (
            (f"losses of {len(report.losses)} steps", losses, same_losses, "measured"),
            ("tensors after the last step", tensors, same_tensors, "measured"),
            ("budget", "", size_text(report.budget_bytes), "given"),
            ("peak of device memory", size_text(report.peak_without_bytes), peak, "measured"),
        ),
        right=("without", "with the plans"),
    )
    print_rows(
        "Its courses: counted",
        report.courses,
        ("its first module is handed", "course"),
        ("steps", "steps", str),
        ("how", "how"),
        ("fell back", "fallbacks", str),
    )
    said = report.out_of_memory_message
    print_line(
        f"At this budget without plans: {said}"
        if said
        else "At this budget the training also fits without plans."
    )
