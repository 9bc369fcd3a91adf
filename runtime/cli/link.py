"""`plan link`: measures the link of the device at hand."""

from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import print_rows, print_table, progress_bars
from planner.report.text import sharing_text
from profiles.schema.profile import CPU, CUDA
from profiles.schema.units import rate_text, size_text, time_text
from runtime.cli.profile import ready_device

if TYPE_CHECKING:
    from profiles.schema.link import CopyMethod
    from profiles.schema.profile import Link
    from runtime.lanes.measure import SizeRates


def link(
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="'cpu' (the most the emulated accelerator's lanes can do) or 'cuda' (the GPU).",
        ),
    ] = CPU,
) -> None:
    """Measures copies to and from the host: each way, both at once, by size."""
    with progress_bars() as progress:
        progress("loading torch", 0, 1)
        from runtime.lanes.measure import link_from, measure_link, measure_methods

        at_hand = ready_device(device)
        rows = measure_link(at_hand, progress=progress)
        engines = measure_methods(at_hand, progress=progress)
    link = link_from(rows, engines)
    _print_rates(device, rows)
    _print_engines(device, link)
    _print_link(link)
    if device == CUDA:
        from runtime.host.numa import sharing_at_hand

        print(f"GPUs of this machine share: {sharing_text(sharing_at_hand(at_hand))}.")
    print("'plan profile --link measured' measures it again and stores it in the profile.")


def _print_rates(device: str, rows: "tuple[SizeRates, ...]") -> None:
    print_rows(
        f"Copies between {device} and host, one after the other (measured)",
        rows,
        ("size", "size_bytes", size_text),
        ("to the host", "d2h_bytes_per_us", rate_text),
        ("from the host", "h2d_bytes_per_us", rate_text),
        ("to, while from", "d2h_shared_bytes_per_us", rate_text),
        ("from, while to", "h2d_shared_bytes_per_us", rate_text),
        ("both together", "both_bytes_per_us", rate_text),
        ("a lone copy takes", "lone_copy_us", time_text),
    )


def _print_engines(device: str, link: "Link") -> None:
    from planner.plan.copy_times import engine_for, measured_us
    from planner.plan.lanes import Direction

    if not link.engines:
        print("Copy kernels: not measured, as there is nothing to compile them with.")
        return
    engines = list(dict.fromkeys(rate.engine for rate in link.engines))
    sizes_bytes = sorted({rate.size_bytes for rate in link.engines})
    columns = ("size", *map(_words, engines), "best", "best of a mask")
    print_table(
        f"A copy between {device} and host, among others: to the host / back (measured)",
        columns,
        [
            (
                size_text(size_bytes),
                *(
                    " / ".join(
                        time_text(measured_us(link, way, size_bytes, engine)) for way in Direction
                    )
                    for engine in engines
                ),
                _words(engine_for(link, size_bytes, is_mask=False)),
                _words(engine_for(link, size_bytes, is_mask=True)),
            )
            for size_bytes in sizes_bytes
        ],
        right=columns[:-2],
    )


def _words(engine: "CopyMethod") -> str:
    return engine.value.replace("_", " ")


def _print_link(link: "Link") -> None:
    both = link.both_bytes_per_us
    print(
        f"As a link (measured): {rate_text(link.d2h_bytes_per_us)} to the host, "
        f"{rate_text(link.h2d_bytes_per_us)} from it, "
        f"{'neither slows the other' if both is None else f'{rate_text(both)} both together'}, "
        f"{time_text(link.latency_us)} per copy."
    )
