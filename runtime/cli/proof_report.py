"""What two trainings showed, as the table `plan run` prints."""

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from planner.cli.output import print_line, print_table
from profiles.schema.units import size_text, time_text

if TYPE_CHECKING:
    from runtime.proof.report import ProofReport

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.proof.report import ProofReport


NOT_SAMPLED = "not sampled on this system"


def print_proof(report: "ProofReport") -> None:
    """Prints the proof, what it compared first."""
    print_figures(report)
    print_verdict(report.passed)


def print_verdict(passed: bool) -> None:
    """Prints the last line."""
    print(f"Proof: {'passed' if passed else 'FAILED'}")


def print_figures(report: "ProofReport") -> None:
    """Prints what two trainings showed, without a verdict."""
    for warning in report.warnings:
        print_line(f"Fell back to resident: {warning}")
    rows = (*_number_rows(report), *_memory_rows(report), *_time_rows(report))
    print_table(
        "Trained from one seed: without the plan, and with it",
        ("", "without", "with the plan", "figures are"),
        rows,
        right=("without", "with the plan"),
    )
    for difference in report.memory_differences:
        print(f"Memory is not as planned: {difference}")
    if report.out_of_memory_without_plan:
        print_line(f"At this budget without the plan: {report.out_of_memory_message}")
    else:
        print("At this budget the training also fits without the plan.")
    print_line(report.summary)


def failures(report: "ProofReport") -> Iterator[str]:
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
    if not report.budget_held:
        peak, budget = size_text(report.peak_with_bytes), size_text(report.budget_bytes)
        yield f"the peak was {peak}, above the budget of {budget}"
    if report.fallbacks:
        yield f"{report.fallbacks} steps fell back to resident"


def _number_rows(report: "ProofReport") -> Iterator[tuple[str, str, str, str]]:
    first, last = report.losses[0], report.losses[-1]
    yield (
        f"losses of {len(report.losses)} steps",
        f"{first:.6f} .. {last:.6f}",
        verdict(report.losses_equal),
        "measured",
    )
    yield (
        "tensors after the last step",
        str(report.tensors_compared),
        verdict(report.tensors_equal),
        "measured",
    )


def _memory_rows(report: "ProofReport") -> Iterator[tuple[str, str, str, str]]:
    share = report.peak_with_bytes / max(1, report.peak_without_bytes)
    yield ("budget", "", size_text(report.budget_bytes), "given")
    yield (
        "peak of device memory",
        size_text(report.peak_without_bytes),
        f"{size_text(report.peak_with_bytes)} ({share:.1%})",
        "measured",
    )
    yield (
        "memory at every anchor",
        "",
        _curve_text(report),
        f"measured in {report.memory_compared_steps} steps",
    )
    yield ("peak the plan announces", "", size_text(report.peak_planned_bytes), "simulated")
    yield (
        "growth of resident set, host pool apart",
        _sampled(report.resident_growth_without_bytes),
        _sampled(report.resident_growth_with_bytes),
        "measured by sampling",
    )
    yield ("host pool", "", size_text(report.host_pool_bytes), "measured")


def _time_rows(report: "ProofReport") -> Iterator[tuple[str, str, str, str]]:
    yield (
        f"step, median of {len(report.step_with_us)}",
        time_text(median(report.step_without_us)),
        time_text(median(report.step_with_us)),
        "measured",
    )
    yield (
        "step when the profile was recorded",
        f"{time_text(report.profiled_step_us)} (now / then {report.drift:.3f})",
        "",
        "measured",
    )
    yield (
        "step the plan announces",
        "",
        f"{time_text(report.simulated_step_us)} (measured / this {report.step_ratio:.3f})",
        "simulated",
    )
    yield ("stall per step", "", _seen_text(report.stall_us), "measured")
    yield ("stall the plan announces", "", time_text(report.simulated_stall_us), "simulated")
    yield ("copies slower than the link by", "", _seen_text(report.overrun_us), "measured")
    yield ("moved to the host per step", "", size_text(report.d2h_bytes), "measured")
    yield ("moved back per step", "", size_text(report.h2d_bytes), "measured")
    yield ("misses", "", str(report.misses), "measured")
    yield ("steps that fell back", "", str(report.fallbacks), "measured")


def _curve_text(report: "ProofReport") -> str:
    if not report.memory_compared_steps:
        return "not compared"
    return "other than planned" if report.memory_differences else "as planned, to the byte"


def verdict(equal: bool) -> str:
    """Says whether numbers are the same."""
    return "bit-equal" if equal else "DIFFERENT"


def _seen_text(duration_us: float | None) -> str:
    return "not seen by the host" if duration_us is None else time_text(duration_us)


def _sampled(size_bytes: int) -> str:
    return size_text(size_bytes) if size_bytes else NOT_SAMPLED


COLUMNS = (
    "worker",
    "last loss",
    "losses",
    "tensors",
    "peak without",
    "peak with the plan",
    "at this budget without",
    "fell back",
)


def print_worker_proofs(reports: Sequence["ProofReport"]) -> None:
    """Prints the first worker's figures, then what every worker must show, then the verdict."""
    print("Worker 0:")
    print_figures(reports[0])
    print_table(
        f"{len(reports)} workers, each within {size_text(reports[0].budget_bytes)}: measured",
        COLUMNS,
        (tuple(_cells(rank, report)) for rank, report in enumerate(reports)),
        right=("last loss", "peak without", "peak with the plan", "fell back"),
    )
    if len(reports) > 1 and len({report.losses for report in reports}) == 1:
        print("All workers saw the same losses: this workload's data does not come from its seed.")
    print_verdict(all(report.passed for report in reports))


def _cells(rank: int, report: "ProofReport") -> Iterator[str]:
    yield str(rank)
    yield f"{report.losses[-1]:.6f}"
    yield verdict(report.losses_equal)
    yield f"{report.tensors_compared} {verdict(report.tensors_equal)}"
    yield size_text(report.peak_without_bytes)
    yield size_text(report.peak_with_bytes)
    yield "out of memory" if report.out_of_memory_without_plan else "fits"
    yield str(report.fallbacks)
