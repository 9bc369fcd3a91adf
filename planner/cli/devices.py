"""`plan devices`: the accelerators that a step can be estimated for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import print_table
from planner.cli.quantity import rate_text, size_text
from planner.descriptions import UNKNOWN

if TYPE_CHECKING:
    from profiles.accelerators import Accelerator, Cited
    from profiles.op_class import Precision

NUMBERS = ("memory", "fp32", "tf32", "fp16", "bf16", "best measured", "memory rate", "best copy")
BYTES_PER_US = 1e3
"""Of one GB/s."""


def devices(
    sources: Annotated[
        bool, typer.Option("--sources", help="Also say where each figure was read.")
    ] = False,
) -> None:
    """Lists the accelerators that a step can be estimated for."""
    from profiles.accelerators import ACCELERATORS, BEST_COPY_SHARE, BEST_MATMUL_SHARE

    print_table(
        "Devices to estimate for: TFLOPS and memory rate of the data sheet, and the best that "
        "others measured",
        ("--device", *NUMBERS, "usual link"),
        [_row(accelerator) for accelerator in ACCELERATORS.values()],
        right=NUMBERS,
    )
    print(
        f"best measured: bf16 matrix product. {UNKNOWN} no measurement was found: "
        f"{BEST_MATMUL_SHARE:.0%} of the data sheet's TFLOPS, {BEST_COPY_SHARE:.0%} of its memory "
        "rate are assumed. What ops of each class reach of these is assumed, too."
    )
    if sources:
        print_table(
            "Where the figures were read",
            ("--device", "figure", "source"),
            [row for accelerator in ACCELERATORS.values() for row in _source_rows(accelerator)],
        )
    else:
        print("'plan devices --sources' names the source of each figure.")


def _row(accelerator: "Accelerator") -> tuple[str, ...]:
    from profiles.op_class import Precision

    precisions = (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16)
    return (
        accelerator.name,
        size_text(accelerator.memory_bytes),
        *(_theory_text(accelerator, precision) for precision in precisions),
        UNKNOWN if accelerator.measured_tflops is None else f"{accelerator.measured_tflops.value}",
        rate_text(accelerator.theory_gb_per_s * BYTES_PER_US),
        _copy_text(accelerator.measured_gb_per_s),
        accelerator.link,
    )


def _theory_text(accelerator: "Accelerator", precision: "Precision") -> str:
    tflops = accelerator.theory_tflops.get(precision)
    return "none" if tflops is None else f"{tflops}"


def _copy_text(cited: "Cited | None") -> str:
    return UNKNOWN if cited is None else rate_text(cited.value * BYTES_PER_US)


def _source_rows(accelerator: "Accelerator") -> Iterator[tuple[str, str, str]]:
    yield accelerator.name, "data sheet", accelerator.theory_source
    for figure, cited in (
        ("best measured", accelerator.measured_tflops),
        ("best copy", accelerator.measured_gb_per_s),
    ):
        if cited is not None:
            yield accelerator.name, figure, cited.source
