"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

OutputFile = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        show_default=False,
        help="Where to write; compressed if the name ends in .gz. An older file there is replaced "
        "once the new one is complete.",
    ),
]
LinkName = Annotated[
    str | None,
    typer.Option("--link", metavar="NAME", help="A link of the table; see 'plan links'."),
]
MeasurableLinkName = Annotated[
    str | None,
    typer.Option(
        "--link",
        metavar="NAME",
        help="A link of the table (see 'plan links'), or 'measured': measure the one at hand, as "
        "is done for 'cuda' unless a link is named.",
    ),
]
D2hBandwidth = Annotated[
    str | None,
    typer.Option(
        "--d2h-bandwidth",
        metavar="RATE",
        help="Rate to the host, such as 12GB/s; alone it counts for both directions.",
    ),
]
H2dBandwidth = Annotated[
    str | None,
    typer.Option(
        "--h2d-bandwidth",
        metavar="RATE",
        help="Rate from the host, such as 12GB/s; alone it counts for both directions.",
    ),
]
