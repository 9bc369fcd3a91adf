"""`plan solve`: plans a recorded step for a budget."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from planner.cli import options
from planner.cli.course_sets import holds_courses
from planner.cli.early_end import early_end
from planner.cli.output import print_line, print_rows, progress_bars, wrote
from planner.cli.output_file import beside, check_output
from planner.cli.request import SHARE, PlanRequest, Workers, print_other_way
from planner.cli.solve_courses import solve_courses
from planner.ilp.deadline import SolverName
from planner.plan.plan import Plan
from planner.plan.plan_file import write_plan
from profiles.library.index import profile_path
from profiles.schema.link import NOTHING_SHARED
from profiles.schema.memory import slot_memory
from profiles.schema.profile import LeftOut, Profile, StorageKind, found_name
from profiles.schema.profile_file import read_profile
from profiles.schema.profile_set import ProfileSet
from profiles.schema.units import rate_text, size_text, time_text

KEPT_SHARE = 0.05
"""Gradients kept for nothing are worth a word above this share of the budget."""


def solve(
    profile: options.ProfileFile,
    budget: options.Budget,
    output: Annotated[
        Path | None, options.output_option("x.plan.json beside x.profile.json.gz")
    ] = None,
    link: options.LinkName = None,
    d2h_bandwidth: options.D2hBandwidth = None,
    h2d_bandwidth: options.H2dBandwidth = None,
    workers: options.WorkerCount = 1,
    share: options.Share = None,
    all_reduce_on_link: options.AllReduceOnLink = False,
    host_budget: options.HostBudget = None,
    solver: options.SolverChoice = SolverName.HIGHS,
    time_limit: options.TimeLimit = 60.0,
    min_size: options.MinSize = None,
    without: options.WithoutChoice = None,
) -> None:
    """Plans which storages wait in host memory or are made again, and when, for a budget."""
    request = PlanRequest(
        budget=budget,
        links=(link,),
        d2h_bandwidth=d2h_bandwidth,
        h2d_bandwidth=h2d_bandwidth,
        workers=str(workers),
        share=share,
        all_reduce_on_link=all_reduce_on_link,
        host_budget=host_budget,
        min_size=min_size,
        asked_without=without,
    )
    planned = partial(_solved, solver=solver, time_limit_s=time_limit)
    if holds_courses(profile, ProfileSet):
        solve_courses(profile, request, output, planned)
        return
    recorded = read_profile(profile_path(profile))
    (sharers,) = request.workers_of(recorded)
    path = check_output(output or beside(profile, ".plan.json"), Plan, keep=profile)
    plan = planned(recorded, request, sharers)
    write_plan(plan, path)
    _print_solved(recorded, sharers, plan, is_size_asked=min_size is not None)
    wrote(path)


def _solved(
    profile: Profile,
    request: PlanRequest,
    workers: Workers,
    *,
    solver: SolverName,
    time_limit_s: float,
) -> Plan:
    """Plans one profile; Ctrl-C ends the search with the best plan so far.

    A budget that cannot be met ends the command with what is in the way.
    """
    from planner.cli.wall_report import print_wall
    from planner.smallest_budget import UnmetBudgetError
    from planner.studies.shared_link import host_budget_each_bytes

    budget_bytes, host_bytes = request.budget_bytes(profile), request.host_budget_bytes
    min_size_bytes, link = request.min_size_bytes, workers.link
    try:
        with progress_bars() as progress, early_end() as interrupted:
            progress("loading the solver", 0, 1)
            from planner.solving import solve as solve_profile

            return solve_profile(
                profile,
                budget_bytes=budget_bytes,
                link=link,
                host_budget_bytes=host_budget_each_bytes(host_bytes, workers.count),
                solver=solver,
                time_limit_s=time_limit_s,
                min_size_bytes=min_size_bytes,
                without=request.without,
                progress=progress,
                on_incumbent=lambda incumbent: progress.note(str(incumbent)),
                stop=interrupted,
            )
    except UnmetBudgetError as error:
        print_wall(error)
        raise typer.Exit(error.exit_code) from error


def _print_solved(profile: Profile, workers: Workers, plan: Plan, *, is_size_asked: bool) -> None:
    from planner.cli.show import print_growth, print_plan
    from planner.report.text import step_text

    print_plan(plan, top=0)
    print_line(step_text(plan))
    if plan.swaps or plan.rebuilds:
        _print_min_size(profile, plan, is_asked=is_size_asked)
        _print_kept_gradients(profile, plan)
    print_growth(profile)
    if plan.swaps:
        _print_costs(plan, workers)
    if workers.count > 1:
        _print_notes(profile, workers)


def _print_min_size(profile: Profile, plan: Plan, *, is_asked: bool) -> None:
    """Says below which size storages stay, and what is left out by that."""
    from planner.problem.gaps import candidate_gaps
    from planner.problem.smallest_size import left_out_bytes

    size_bytes, budget_bytes = plan.min_size_bytes, plan.budget_bytes
    held_bytes = [slot.resident_bytes for slot in slot_memory(profile)]
    gaps = candidate_gaps(profile, 1, plan.boundary)
    out_bytes = left_out_bytes(gaps, held_bytes, budget_bytes, size_bytes)
    whose = "asked for" if is_asked else "by default, --min-size sets another size"
    print_line(
        f"Storages below {size_text(size_bytes)} stay ({whose}): while idle they hold at most "
        f"{size_text(out_bytes)} of the budget at once, {out_bytes / budget_bytes:.2%}."
    )


def _print_kept_gradients(profile: Profile, plan: Plan) -> None:
    """Says what gradients hold that nothing uses between the update and the next step."""
    gradients = [one for one in profile.storages if one.kind is StorageKind.GRADIENT]
    # What the step finds as it begins, and drops as it is.
    found = {one.name for one in gradients if one.allocated_op is None and not one.uses}
    made = (one for one in gradients if one.released_op is None and found_name(one.name) in found)
    kept_bytes = sum(one.size_bytes for one in made)
    if kept_bytes >= KEPT_SHARE * plan.budget_bytes:
        print_line(
            f"Gradients of {size_text(kept_bytes)} are kept until the next step drops them unused, "
            f"{kept_bytes / plan.budget_bytes:.0%} of the budget: zero_grad() right after the "
            "optimizer's step would leave that to the rest, and a plan may be faster."
        )


def _print_costs(plan: Plan, workers: Workers) -> None:
    """Prints what the plan costs with other numbers of workers, or why that is not said."""
    name = workers.alone.name
    if workers.sharing is None:
        print_line(f"What more workers would share on link {name} is not known: {SHARE} says it.")
        return
    if workers.sharing == NOTHING_SHARED and workers.exchange is None:
        print_line(
            f"Workers share nothing on link {name}: the step takes as long for each of many."
        )
        return
    from planner.studies.shared_link import worker_costs_table

    table = worker_costs_table(plan, workers.alone, workers.sharing, workers.exchange)
    print_rows(
        f"This plan with other numbers of workers on one host, link {name} (rates: "
        f"{workers.alone.provenance.value}, divided; stall and step: simulated)",
        table.itertuples(),
        ("workers", "workers", str),
        ("to the host", "d2h_bytes_per_us", _or_nothing_left(rate_text)),
        ("from it", "h2d_bytes_per_us", _or_nothing_left(rate_text)),
        (
            "both together",
            "both_bytes_per_us",
            lambda rate: "" if math.isnan(rate) else rate_text(rate),
        ),
        ("stall", "stall_us", _or_nothing_left(time_text)),
        ("step", "step_us", _or_nothing_left(time_text)),
        ("host pools", "host_pool_bytes", size_text),
    )


def _or_nothing_left(text: Callable[[float], str]) -> Callable[[float], str]:
    return lambda figure: "nothing left" if math.isnan(figure) else text(figure)


def _print_notes(profile: Profile, workers: Workers) -> None:
    """Prints what was taken for granted of several workers."""
    assert workers.sharing is not None
    if workers.sharing.memory is None and workers.sharing.gpus_per_memory > 1:
        print("How fast a socket's memory is was not said: it is taken not to be what limits.")
    if workers.exchange is None:
        print_other_way(profile)
    if not any(storage.left_out is LeftOut.EXCHANGED for storage in profile.storages):
        print(
            "The step was recorded without DistributedDataParallel, whose buckets take memory: to "
            "train with workers, record it with 'plan profile --data-parallel'."
        )
