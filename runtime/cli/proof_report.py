"""What two trainings showed, as the tables `plan run` prints."""

from collections.abc import Iterator, Sequence
from statistics import median

from planner.cli.output import print_line, print_table
from planner.report.text import CHECKPOINTING
from profiles.schema.units import size_text, time_text
from runtime.proof.report import ProofReport

WORKER_COLUMNS = (
    "worker",
    "last loss",
    "losses",
    "tensors",
    "peak without",
    "peak with the plan",
    "at this budget without",
    "fell back",
)


def print_proofs(reports: Sequence[ProofReport], *, of_workers: bool) -> None:
    """Prints what was compared and the verdict: of workers, the first one's figures, then what
    each must show."""
    if of_workers:
        print("Worker 0:")
    _print_figures(reports[0])
    if of_workers:
        print_table(
            f"{len(reports)} workers, each within {size_text(reports[0].budget_bytes)}: measured",
            WORKER_COLUMNS,
            [_worker_cells(rank, report) for rank, report in enumerate(reports)],
            right=("last loss", "peak without", "peak with the plan", "fell back"),
        )
        if len(reports) > 1 and len({report.losses for report in reports}) == 1:
            print(
                "All workers saw the same losses: this workload's data does not come from its seed."
            )
    print(f"Proof: {'passed' if all(report.passed for report in reports) else 'FAILED'}")


def failures(report: ProofReport) -> Iterator[str]:
    """Says, one by one, what the proof failed on."""
    if not report.repeats:
        yield (
            "numbers differ from run to run without the plan, too, so nothing can be said of it: "
            "have the workload call torch.use_deterministic_algorithms(True)"
        )
        return
    if not report.losses_equal:
        yield "the losses differ"
    if not report.tensors_equal:
        yield "parameters, gradients, buffers or optimizer states differ"
        if report.without_checkpointing:
            yield (
                "a part that is checkpointed is run twice a step, and with the plan once: if it "
                "writes something itself, as BatchNorm does, record it without --no-checkpointing"
            )
    if not report.budget_held:
        peak, budget = size_text(report.peak_with_bytes), size_text(report.budget_bytes)
        yield f"the peak was {peak}, above the budget of {budget}"
    if report.fallbacks:
        yield f"{report.fallbacks} steps fell back to resident"
    if report.is_another_step:
        yield (
            "every step skipped an update, so it is another than the recorded one: record it again "
            "with 'plan profile'"
        )


def _print_figures(report: ProofReport) -> None:
    for warning in report.warnings:
        print_line(f"Fell back to resident: {warning}")
    print_table(
        "Trained from one seed: without the plan, and with it",
        ("", "without", "with the plan", "figures are"),
        (*_number_rows(report), *_memory_rows(report), *_time_rows(report)),
        right=("without", "with the plan"),
    )
    for difference in report.memory_differences:
        print(f"Memory is not as planned: {difference}")
    if report.out_of_memory_without_plan:
        print_line(f"At this budget without the plan: {report.out_of_memory_message}")
    else:
        print("At this budget the training also fits without the plan.")
    print_line(report.summary)


def _number_rows(report: ProofReport) -> Iterator[tuple[str, str, str, str]]:
    losses = f"{report.losses[0]:.6f} .. {report.losses[-1]:.6f}"
    equal, tensors = verdict(report.losses_equal), str(report.tensors_compared)
    yield f"losses of {len(report.losses)} steps", losses, equal, "measured"
    equal = verdict(report.tensors_equal)
    yield "tensors after the last step", tensors, equal, "measured"
    if report.without_checkpointing:
        yield CHECKPOINTING, "as it is", "switched off", "given"


def _memory_rows(report: ProofReport) -> Iterator[tuple[str, str, str, str]]:
    without, with_plan = size_text(report.peak_without_bytes), size_text(report.peak_with_bytes)
    share = report.peak_with_bytes / max(1, report.peak_without_bytes)
    curve = "other than planned" if report.memory_differences else "as planned, to the byte"
    if not report.memory_compared_steps:
        curve = "not compared"
    compared = f"measured in {report.memory_compared_steps} steps"
    yield "budget", "", size_text(report.budget_bytes), "given"
    yield "peak of device memory", without, f"{with_plan} ({share:.1%})", "measured"
    yield "memory at every anchor", "", curve, compared
    yield "peak the plan announces", "", size_text(report.peak_planned_bytes), "simulated"
    yield (
        "growth of resident set, host pool apart",
        _sampled_text(report.resident_growth_without_bytes),
        _sampled_text(report.resident_growth_with_bytes),
        "measured by sampling",
    )
    yield "host pool", "", size_text(report.host_pool_bytes), "measured"


def _time_rows(report: ProofReport) -> Iterator[tuple[str, str, str, str]]:
    without, with_plan = median(report.step_without_us), median(report.step_with_us)
    then = time_text(report.profiled_step_us)
    # The two differ in more than when they were measured if checkpointing was switched off.
    now = "checkpointing off" if report.without_checkpointing else f"now / then {report.drift:.3f}"
    then += f" ({now})"
    announced = f"{time_text(report.simulated_step_us)} (measured / this {report.step_ratio:.3f})"
    name = f"step, median of {len(report.step_with_us)}"
    yield name, time_text(without), time_text(with_plan), "measured"
    yield "step when the profile was recorded", then, "", "measured"
    yield "step the plan announces", "", announced, "simulated"
    yield "stall per step", "", _seen_text(report.stall_us), "measured"
    yield "stall the plan announces", "", time_text(report.simulated_stall_us), "simulated"
    yield "copies slower than the link by", "", _seen_text(report.overrun_us), "measured"
    yield "moved to the host per step", "", size_text(report.d2h_bytes), "measured"
    yield "moved back per step", "", size_text(report.h2d_bytes), "measured"
    if report.recompute_us > 0:
        yield from _rebuild_rows(report)
    yield "misses", "", str(report.misses), "measured"
    yield "steps that fell back", "", str(report.fallbacks), "measured"
    if report.shortcuts:
        yield "steps that skipped an update", "", str(report.shortcuts), "measured"


def _rebuild_rows(report: ProofReport) -> Iterator[tuple[str, str, str, str]]:
    rebuilt = f"{size_text(report.rebuilt_bytes)} by {report.ops_run_again} ops"
    yield "rebuilt per step", "", rebuilt, "measured"
    yield "running ops again per step", "", time_text(report.rebuild_us), "measured"
    yield (
        "running ops again, as the plan announces",
        "",
        time_text(report.recompute_us),
        "simulated",
    )
    yield "noting ops per step", "", time_text(report.capture_us), "measured"


def verdict(equal: bool) -> str:
    """Says whether two trainings had the same."""
    return "bit-equal" if equal else "DIFFERENT"


def _sampled_text(size_bytes: int) -> str:
    return size_text(size_bytes) if size_bytes else "not sampled on this system"


def _seen_text(duration_us: float | None) -> str:
    return "not seen by the host" if duration_us is None else time_text(duration_us)


def _worker_cells(rank: int, report: ProofReport) -> tuple[str, ...]:
    return (
        str(rank),
        f"{report.losses[-1]:.6f}",
        verdict(report.losses_equal),
        f"{report.tensors_compared} {verdict(report.tensors_equal)}",
        size_text(report.peak_without_bytes),
        size_text(report.peak_with_bytes),
        "out of memory" if report.out_of_memory_without_plan else "fits",
        str(report.fallbacks),
    )
