"""What the trainings of data-parallel workers showed, as the tables `plan run --workers` prints."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from planner.cli.output import print_table
from planner.cli.proof_report import print_figures, print_verdict, verdict
from planner.cli.quantity import size_text

if TYPE_CHECKING:
    from runtime.proof_report import ProofReport

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
