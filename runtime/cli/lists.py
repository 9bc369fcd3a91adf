"""`plan workloads` and `plan links`: what there is to choose from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import print_table
from planner.report.text import SECOND_HAND, UNKNOWN, figure_text, sharing_text
from profiles.schema.units import rate_text, size_text, time_text

if TYPE_CHECKING:
    from profiles.hardware.links import LinkFacts
    from profiles.library.index import WorkloadSize
    from profiles.schema.profile import Link

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.hardware.accelerators import Accelerator, Cited
    from profiles.hardware.op_class import Precision


LINK_COLUMNS = ("to the host", "from the host", "both together", "in theory", "per copy")


def workloads() -> None:
    """Lists the built-in workloads, their settings and their sizes."""
    from profiles.library.index import read_index
    from profiles.workloads.catalog import WORKLOADS

    sizes = {size.workload: size for size in read_index().workloads}
    for workload in WORKLOADS.values():
        print_table(
            f"{workload.name}: {workload.summary} (needs swapplan[{workload.extra}])\n"
            f"{_size_line(sizes[workload.name])}",
            ("--set", "default", "allowed"),
            [(setting.name, setting.default, setting.allowed) for setting in workload.settings],
        )
    print("Your own training step goes in as path/to/file.py:function; see the README.")


def _size_line(size: "WorkloadSize") -> str:
    return (
        f"With the defaults: {size.parameters / 1e6:.1f} million parameters "
        f"({size_text(size.parameter_bytes)}), {size_text(size.activation_bytes)} of activations "
        "(estimated)"
    )


def links(
    sources: Annotated[
        bool, typer.Option("--sources", help="Also say where each figure was read.")
    ] = False,
) -> None:
    """Lists the links a plan can be made for."""
    from profiles.hardware.links import LINK_FACTS, LINKS

    print_table(
        "Links: rates that others measured, nominal here",
        ("--link", *LINK_COLUMNS, "what GPUs share"),
        [_link_row(link, LINK_FACTS.get(link.name)) for link in LINKS.values()],
        right=LINK_COLUMNS,
    )
    print(f"{SECOND_HAND} not verified: repeated by others, or taken to be so. {UNKNOWN} unknown.")
    if sources:
        print_table(
            "Where the figures were read",
            ("--link", "figure", "rate", "source"),
            [row for facts in LINK_FACTS.values() for row in _source_rows(facts)],
            right=("rate",),
        )
    else:
        print("'plan links --sources' names the source of each figure.")


def _link_row(link: "Link", facts: "LinkFacts | None") -> tuple[str, ...]:
    latency = time_text(link.latency_us)
    if facts is None:
        rates = (link.d2h_bytes_per_us, link.h2d_bytes_per_us)
        return (link.name, *map(rate_text, rates), UNKNOWN, UNKNOWN, latency, "nothing: emulated")
    return (
        link.name,
        *map(figure_text, (facts.d2h, facts.h2d, facts.both, facts.theory)),
        latency,
        sharing_text(facts.sharing),
    )


def _source_rows(facts: "LinkFacts") -> Iterator[tuple[str, ...]]:
    for name, figure in facts.figures:
        yield facts.link.name, name, figure_text(figure), figure.source
    if facts.sharing is not None:
        yield facts.link.name, "what GPUs share", "", facts.sharing.source


NUMBERS = ("memory", "fp32", "tf32", "fp16", "bf16", "best measured", "memory rate", "best copy")
BYTES_PER_US = 1e3
"""Of one GB/s."""


def devices(
    sources: Annotated[
        bool, typer.Option("--sources", help="Also say where each figure was read.")
    ] = False,
) -> None:
    """Lists the accelerators that a step can be estimated for."""
    from profiles.hardware.accelerators import ACCELERATORS, BEST_COPY_SHARE, BEST_MATMUL_SHARE

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
            [
                row
                for accelerator in ACCELERATORS.values()
                for row in _device_source_rows(accelerator)
            ],
        )
    else:
        print("'plan devices --sources' names the source of each figure.")


def _row(accelerator: "Accelerator") -> tuple[str, ...]:
    from profiles.hardware.op_class import Precision

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


def _device_source_rows(accelerator: "Accelerator") -> Iterator[tuple[str, str, str]]:
    yield accelerator.name, "data sheet", accelerator.theory_source
    for figure, cited in (
        ("best measured", accelerator.measured_tflops),
        ("best copy", accelerator.measured_gb_per_s),
    ):
        if cited is not None:
            yield accelerator.name, figure, cited.source


def library() -> None:
    """Lists the profiles that come with the project."""
    from profiles.library.index import PREFIX, read_index

    entries = read_index().entries
    numbers = ("peak", "device", "step", "ops")
    print_table(
        "Library: peak without a plan, the device's memory, and time of a step",
        ("profile", *numbers, "times are", "made by"),
        [
            (
                f"{PREFIX}{entry.name}",
                size_text(entry.peak_bytes),
                size_text(entry.device_bytes),
                time_text(entry.step_us),
                str(entry.ops),
                entry.times.value,
                entry.command,
            )
            for entry in entries
        ],
        right=numbers,
    )
    print(
        "A profile's name goes where a profile file goes: "
        f"plan solve {PREFIX}NAME --budget 60% -o my.plan.json"
    )
