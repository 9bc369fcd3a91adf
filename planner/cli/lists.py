"""`plan workloads` and `plan links`: what there is to choose from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import print_table
from planner.cli.quantity import rate_text, size_text, time_text
from planner.descriptions import SECOND_HAND, UNKNOWN, figure_text, sharing_text

if TYPE_CHECKING:
    from profiles.library.index import WorkloadSize
    from profiles.link_facts import LinkFacts
    from profiles.profile import Link

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
    from profiles.hardware import LINK_FACTS, LINKS

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
