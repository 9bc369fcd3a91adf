"""`plan solve`: plans a recorded step for a budget."""

from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.early_end import early_end
from planner.cli.options import (
    AllReduceOnLink,
    D2hBandwidth,
    H2dBandwidth,
    HostBudget,
    LinkName,
    MinSize,
    OutputFile,
    ProfileFile,
    Share,
    SolverChoice,
    TimeLimit,
    WorkerCount,
)
from planner.cli.output import progress_bars, wrote
from planner.ilp.deadline import SolverName
from profiles.schema.units import parse_budget_bytes, parse_size_bytes

if TYPE_CHECKING:
    from planner.cli.sharing import Workers
    from planner.plan.plan import Plan
    from profiles.schema.profile import Profile

Budget = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        show_default=False,
        help="Device bytes to stay within: 8GiB, 512MB, or 60% (of the no-plan peak).",
    ),
]


def solve(
    profile: ProfileFile,
    budget: Budget,
    output: OutputFile,
    link: LinkName = None,
    d2h_bandwidth: D2hBandwidth = None,
    h2d_bandwidth: H2dBandwidth = None,
    workers: WorkerCount = 1,
    share: Share = None,
    all_reduce_on_link: AllReduceOnLink = False,
    host_budget: HostBudget = None,
    solver: SolverChoice = SolverName.HIGHS,
    time_limit: TimeLimit = 60.0,
    min_size: MinSize = None,
) -> None:
    """Plans which storages wait in host memory, and when, for a budget."""
    from planner.budget_wall import UnmetBudgetError
    from planner.cli.link import choose_link
    from planner.cli.sharing import choose_workers
    from planner.cli.wall_report import tell_wall
    from planner.plan.plan_file import write_plan
    from profiles.library.index import profile_path
    from profiles.schema.files import check_writable
    from profiles.schema.profile_file import read_profile

    recorded = read_profile(profile_path(profile))
    alone = choose_link(recorded.link, link, d2h_bandwidth, h2d_bandwidth)
    sharers = choose_workers(
        recorded, alone, count=workers, share=share, all_reduce_on_link=all_reduce_on_link
    )
    check_writable(output, keep=profile)
    try:
        plan = _solved(
            recorded,
            sharers,
            budget=budget,
            host_budget=host_budget,
            solver=solver,
            time_limit=time_limit,
            min_size=min_size,
        )
    except UnmetBudgetError as error:
        tell_wall(error)
        raise typer.Exit(error.exit_code) from error
    write_plan(plan, output)
    _tell(recorded, sharers, plan)
    wrote(output)


def _solved(
    profile: "Profile",
    workers: "Workers",
    *,
    budget: str,
    host_budget: str | None,
    solver: SolverName,
    time_limit: float,
    min_size: str | None,
) -> "Plan":
    """Solves for what the options ask."""
    from planner.studies.shared_link import host_budget_each_bytes

    peak_bytes = profile.peak_bytes
    budget_bytes = parse_budget_bytes("--budget", budget, peak_bytes)
    host_bytes = parse_size_bytes("--host-budget", host_budget) if host_budget else None
    min_bytes = parse_size_bytes("--min-size", min_size) if min_size else None
    link = workers.link
    with progress_bars() as progress, early_end() as interrupted:
        progress("loading the solver", 0, 1)
        from planner.solving import solve as solve_profile

        return solve_profile(
            profile,
            budget_bytes=budget_bytes,
            link=link,
            host_budget_bytes=host_budget_each_bytes(host_bytes, workers.count),
            solver=solver,
            time_limit_s=time_limit,
            min_size_bytes=min_bytes,
            progress=progress,
            told=lambda standing: progress.note(str(standing)),
            stop=interrupted,
        )


def _tell(profile: "Profile", workers: "Workers", plan: "Plan") -> None:
    from planner.cli.cost_report import print_worker_costs, print_worker_notes
    from planner.cli.report import print_growth, print_plan

    print_plan(plan, top=0)
    print_growth(profile)
    print_worker_costs(plan, workers)
    print_worker_notes(profile, workers)
