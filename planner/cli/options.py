"""Arguments and options that several commands share."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.ilp.deadline import SolverName
from planner.plan.plan import Without
from planner.problem.settings import WITHOUT_BY_DEFAULT
from profiles.schema.errors import QuantityError

ANY_FILE = "From 'plan profile' or 'plan solve', or library:NAME (see 'plan library')."
AnyFile = Annotated[Path, typer.Argument(metavar="FILE", help=ANY_FILE)]


def output_option(default: str) -> Any:
    """Returns the option that says where a file goes, and where it goes without."""
    return typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help=f"Where to write, by default {default}; compressed if the name ends in .gz. An older "
        "one there is replaced once the new one is complete.",
    )


AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print all that the tables hold as JSON instead, in bytes and microseconds."
    ),
]
CsvFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Also write the table, as CSV."),
]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="From 'plan solve'.")]
Workload = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="A built-in name (see 'plan workloads') or path/to/file.py:function.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the workload; repeatable."),
]
Seed = Annotated[int, typer.Option(min=0, help="Set before the workload is built.")]
ProfileFile = Annotated[
    Path,
    typer.Argument(
        metavar="PROFILE", help="From 'plan profile', or library:NAME (see 'plan library')."
    ),
]
Budget = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Device bytes to stay within: 8GiB, 512MB, or 60% (of the no-plan peak).",
    ),
]
LinkNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Links of the table, with commas (see 'plan links'); by default the profile's.",
    ),
]
LinkName = Annotated[
    str | None, typer.Option(metavar="NAME", help="A link of the table; see 'plan links'.")
]
MeasurableLinkName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A link of the table (see 'plan links'), or 'measured': measure the one at hand, as "
        "is done for 'cuda' unless a link is named.",
    ),
]
D2hBandwidth = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Rate to the host, such as 12GB/s; alone it counts for both directions.",
    ),
]
H2dBandwidth = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Rate from the host, such as 12GB/s; alone it counts for both directions.",
    ),
]
WorkerCounts = Annotated[
    str, typer.Option(metavar="NUMBERS", help="Numbers of workers of one host, with commas: 1,2,4.")
]
WorkerCount = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Plan for N data-parallel workers of one host, who share its link and its memory.",
    ),
]
Share = Annotated[
    str | None,
    typer.Option(
        metavar="LINKGROUP",
        help="What the workers' GPUs share, such as switch=2,socket=4,memory=200GB/s; 'nothing'; "
        "or as on a link of the table. By default what is known of the link (see 'plan links').",
    ),
]
AllReduceOnLink = Annotated[
    bool,
    typer.Option(
        "--all-reduce-on-link",
        help="The workers sum their gradients over this link, as there is no other way between "
        "their GPUs: take a ring all-reduce, averaged over the step, off its rates.",
    ),
]
HostBudget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Bytes of the host to stay within, all its workers together; no limit if not given. "
        "0 is --without swap.",
    ),
]
WithoutChoice = Annotated[
    Without | None,
    typer.Option(
        "--without",
        help="What not to use: swap copies nothing to the host, recompute runs nothing again; by "
        f"default {WITHOUT_BY_DEFAULT.value}.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="How many plans are made at once; by default one per core."),
]
SolverChoice = Annotated[SolverName, typer.Option(help="Which solver PuLP drives.")]
MinSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Smaller storages stay; by default 1/1000 of the no-plan peak, or less where that "
        "would leave out 1% of the budget in some slot.",
    ),
]


def _seconds(time_limit: float) -> float:
    if not 0 < time_limit < math.inf:
        raise QuantityError(f"--time-limit is {time_limit}, expected seconds above 0, such as 60.")
    return time_limit


TimeLimit = Annotated[float, typer.Option(metavar="S", callback=_seconds, help="Seconds at most.")]


def parse_settings(texts: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Reads the pairs of `--set`.

    Raises:
        QuantityError: One of them is no pair.
    """
    pairs = []
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise QuantityError(f"--set is {text!r}, expected KEY=VALUE such as size=96.")
        pairs.append((key, value))
    return tuple(pairs)
