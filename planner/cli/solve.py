"""`plan solve`: plans a recorded step for a budget."""

import math
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.options import D2hBandwidth, H2dBandwidth, LinkName, OutputFile
from planner.cli.output import progress_bars, wrote
from planner.cli.quantity import parse_budget_bytes, parse_size_bytes
from planner.solver_name import SolverName
from profiles.errors import QuantityError


def _seconds(time_limit: float) -> float:
    if not 0 < time_limit < math.inf:
        raise QuantityError(f"--time-limit is {time_limit}, expected seconds above 0, such as 60.")
    return time_limit


def solve(
    profile: Annotated[
        Path,
        typer.Argument(
            metavar="PROFILE",
            help="From 'plan profile', or library:NAME (see 'plan library').",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            show_default=False,
            help="Device bytes to stay within: 8GiB, 512MB, or 60% (of the no-plan peak).",
        ),
    ],
    output: OutputFile,
    link: LinkName = None,
    d2h_bandwidth: D2hBandwidth = None,
    h2d_bandwidth: H2dBandwidth = None,
    host_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Host bytes to stay within; no limit if not given."),
    ] = None,
    solver: Annotated[
        SolverName, typer.Option(help="Which solver PuLP drives.")
    ] = SolverName.HIGHS,
    time_limit: Annotated[
        float, typer.Option(metavar="S", callback=_seconds, help="Seconds for the solver.")
    ] = 60.0,
    min_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Smaller storages stay; by default 1/1000 of the no-plan peak."
        ),
    ] = None,
) -> None:
    """Plans which storages wait in host memory, and when, for a budget."""
    from planner.cli.link import choose_link
    from planner.cli.report import print_plan
    from planner.memory import slot_memory
    from planner.plan import write_plan
    from profiles.files import check_writable
    from profiles.library.index import profile_path
    from profiles.profile import read_profile

    recorded = read_profile(profile_path(profile))
    peak_bytes = max(slot.resident_bytes for slot in slot_memory(recorded))
    budget_bytes = parse_budget_bytes("--budget", budget, peak_bytes)
    host_bytes = parse_size_bytes("--host-budget", host_budget) if host_budget else None
    min_bytes = parse_size_bytes("--min-size", min_size) if min_size else None
    chosen = choose_link(recorded.link, link, d2h_bandwidth, h2d_bandwidth)
    check_writable(output)
    with progress_bars() as progress:
        progress("loading the solver", 0, 1)
        from planner.solve import solve as solve_profile

        plan = solve_profile(
            recorded,
            budget_bytes=budget_bytes,
            link=chosen,
            host_budget_bytes=host_bytes,
            solver=solver,
            time_limit_s=time_limit,
            min_size_bytes=min_bytes,
            progress=progress,
        )
    write_plan(plan, output)
    print_plan(plan, top=0)
    wrote(output)
