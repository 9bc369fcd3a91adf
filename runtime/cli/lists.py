"""`plan workloads`, `devices`, `links` and `library`: what there is to choose from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.json_output import print_json
from planner.cli.options import AsJson
from planner.cli.output import Column, print_rows, print_table
from planner.report.text import SECOND_HAND, UNKNOWN, figure_text, sharing_text
from profiles.hardware.accelerators import ACCELERATORS, BEST_COPY_SHARE, BEST_MATMUL_SHARE
from profiles.hardware.links import LINK_FACTS, LINKS
from profiles.hardware.op_class import Precision
from profiles.library.index import PREFIX, read_index
from profiles.schema.units import rate_text, size_text, time_text

if TYPE_CHECKING:
    from profiles.hardware.accelerators import Accelerator
    from profiles.hardware.links import LinkFacts
    from profiles.library.index import WorkloadSize
    from profiles.schema.profile import Link
    from profiles.workloads.catalog import Builtin

Sources = Annotated[bool, typer.Option("--sources", help="Also say where each figure was read.")]
LINK_COLUMNS = ("to the host", "from the host", "both together", "in theory", "per copy")
BYTES_PER_US = 1e3
"""Of one GB/s."""


def workloads(as_json: AsJson = False) -> None:
    """Lists the built-in workloads, their settings and their sizes."""
    from profiles.workloads.catalog import WORKLOADS

    sizes = {size.workload: size for size in read_index().workloads}
    if as_json:
        print_json(workloads=[_workload_record(one, sizes[one.name]) for one in WORKLOADS.values()])
        return
    for workload in WORKLOADS.values():
        size = sizes[workload.name]
        print_rows(
            f"{workload.name}: {workload.summary} (needs swapplan[{workload.extra}])\n"
            f"With the defaults: {size.parameters / 1e6:.1f} million parameters "
            f"({size_text(size.parameter_bytes)}), {size_text(size.activation_bytes)} of "
            "activations (estimated)",
            workload.settings,
            ("--set", "name"),
            ("default", "default"),
            ("allowed", "allowed"),
        )
    print(
        "Your own training step goes in as path/to/file.py:function; see "
        "notebooks/guides/your_own_model.md."
    )


def _workload_record(workload: "Builtin", size: "WorkloadSize") -> dict[str, object]:
    settings = [
        {"name": one.name, "default": one.default, "allowed": one.allowed}
        for one in workload.settings
    ]
    return {
        "name": workload.name,
        "summary": workload.summary,
        "extra": workload.extra,
        "parameters": size.parameters,
        "parameter_bytes": size.parameter_bytes,
        "activation_bytes": size.activation_bytes,
        "settings": settings,
    }


def links(sources: Sources = False, as_json: AsJson = False) -> None:
    """Lists the links a plan can be made for."""
    if as_json:
        print_json(
            links=[{"link": link, "facts": LINK_FACTS.get(link.name)} for link in LINKS.values()]
        )
        return
    print_table(
        "Links: rates that others measured, nominal here",
        ("--link", *LINK_COLUMNS, "what GPUs share"),
        [_link_row(link, LINK_FACTS.get(link.name)) for link in LINKS.values()],
        right=LINK_COLUMNS,
    )
    print(f"{SECOND_HAND} not verified: repeated by others, or taken to be so. {UNKNOWN} unknown.")
    if not sources:
        print("'plan links --sources' names the source of each figure.")
        return
    print_table(
        "Where the figures were read",
        ("--link", "figure", "rate", "source"),
        [row for facts in LINK_FACTS.values() for row in _link_sources(facts)],
        right=("rate",),
    )


def devices(sources: Sources = False, as_json: AsJson = False) -> None:
    """Lists the accelerators that a step can be estimated for."""
    if as_json:
        print_json(devices=tuple(ACCELERATORS.values()))
        return
    print_rows(
        "Devices to estimate for: TFLOPS and memory rate of the data sheet, and the best that "
        "others measured",
        ACCELERATORS.values(),
        ("--device", "name"),
        ("memory", "memory_bytes", size_text),
        *map(_theory_column, (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16)),
        ("best measured", "measured_tflops", lambda best: str(best.value) if best else UNKNOWN),
        ("memory rate", "theory_gb_per_s", _gb_text),
        ("best copy", "measured_gb_per_s", lambda best: _gb_text(best.value) if best else UNKNOWN),
        ("usual link", "link"),
    )
    print(
        f"best measured: bf16 matrix product. {UNKNOWN} no measurement was found: "
        f"{BEST_MATMUL_SHARE:.0%} of the data sheet's TFLOPS, {BEST_COPY_SHARE:.0%} of its memory "
        "rate are assumed. What ops of each class reach of these is assumed, too."
    )
    if not sources:
        print("'plan devices --sources' names the source of each figure.")
        return
    print_table(
        "Where the figures were read",
        ("--device", "figure", "source"),
        [row for accelerator in ACCELERATORS.values() for row in _device_sources(accelerator)],
    )


def library(as_json: AsJson = False) -> None:
    """Lists the profiles that come with the project."""
    if as_json:
        print_json(library=read_index().entries)
        return
    print_rows(
        "Library: peak without a plan, the device's memory, and time of a step",
        read_index().entries,
        ("profile", lambda entry: f"{PREFIX}{entry.name}"),
        ("peak", "peak_bytes", size_text),
        ("device", "device_bytes", size_text),
        ("step", "step_us", time_text),
        ("ops", "ops", str),
        ("times are", "times"),
        ("made by", "command"),
    )
    print(
        "A profile's name goes where a profile file goes: "
        f"plan solve {PREFIX}NAME --budget 60% -o my.plan.json"
    )


def _link_row(link: "Link", facts: "LinkFacts | None") -> tuple[str, ...]:
    latency = time_text(link.latency_us)
    if facts is None:
        rates = (rate_text(link.d2h_bytes_per_us), rate_text(link.h2d_bytes_per_us))
        return (link.name, *rates, UNKNOWN, UNKNOWN, latency, "nothing: emulated")
    figures = map(figure_text, (facts.d2h, facts.h2d, facts.both, facts.theory))
    return (link.name, *figures, latency, sharing_text(facts.sharing))


def _link_sources(facts: "LinkFacts") -> Iterator[tuple[str, ...]]:
    for name, figure in facts.figures:
        yield facts.link.name, name, figure_text(figure), figure.source
    yield facts.link.name, "what GPUs share", "", facts.sharing.source


def _theory_column(precision: Precision) -> Column:
    return precision.value, lambda device: device.theory_tflops.get(precision, "none"), str


def _gb_text(gb_per_s: float) -> str:
    return rate_text(gb_per_s * BYTES_PER_US)


def _device_sources(accelerator: "Accelerator") -> Iterator[tuple[str, str, str]]:
    yield accelerator.name, "data sheet", accelerator.theory_source
    for figure, cited in (
        ("best measured", accelerator.measured_tflops),
        ("best copy", accelerator.measured_gb_per_s),
    ):
        if cited is not None:
            yield accelerator.name, figure, cited.source
