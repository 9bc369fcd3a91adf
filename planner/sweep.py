"""A sweep: one step planned for many budgets, links and numbers of workers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from itertools import product
from typing import Any

import pandas as pd

from planner.plan import BoundSource, Plan, Proof
from planner.solve import solve
from planner.solver_name import SolverName
from profiles.errors import BudgetError
from profiles.profile import Link, Profile


class SweepOutcome(StrEnum):
    """What became of one point."""

    PLANNED = "planned"
    FITS = "fits as it is"
    UNMET = "cannot be met"


@dataclass(frozen=True, kw_only=True)
class LinkChoice:
    """A link to plan for, and how many workers share it.

    Attributes:
        name: Its name as one worker alone sees it.
        workers: How many share it.
        link: What is left of it for each.
        all_reduce_on_link: Whether that is less what summing their gradients takes.
        host_budget_bytes: Host bytes for each; None for no limit.
    """

    name: str
    workers: int
    link: Link
    all_reduce_on_link: bool = False
    host_budget_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """What one plan is made for."""

    choice: LinkChoice
    budget_bytes: int


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What all plans of a sweep are made with; see `planner.solve.solve`."""

    solver: SolverName = SolverName.HIGHS
    time_limit_s: float = 60.0
    min_size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One point and its plan's certificate. Without a plan, its figures are None.

    Attributes:
        link: The link's name as one worker alone sees it.
        workers: How many share it.
        all_reduce_on_link: Whether they sum their gradients over it.
        d2h_bytes_per_us: Rate to the host that is left for each.
        h2d_bytes_per_us: Rate from the host that is left for each.
        both_bytes_per_us: Rate of both together; None if neither direction slows the other.
        budget_bytes: Device bytes to stay within.
        outcome: What became of it.
        smallest_budget_bytes: The smallest budget that can be met, where this one cannot.
        compute_us: Step time with nothing moved, from the profile.
        step_us: Step time under the plan, simulated.
        bound_step_us: Step time no plan can be below.
        bound_source: Why not.
        gap: How far the plan may be from the best, as a share of the best step time.
        peak_bytes: Peak under the plan, simulated.
        d2h_bytes: Bytes copied to the host per step.
        h2d_bytes: Bytes copied back per step.
        host_pool_bytes: Host bytes of one worker.
        proof: What the solver proved about its model.
        solve_seconds: Wall time of planning, beside whatever else ran.
    """

    link: str
    workers: int
    all_reduce_on_link: bool
    d2h_bytes_per_us: float
    h2d_bytes_per_us: float
    both_bytes_per_us: float | None
    budget_bytes: int
    outcome: SweepOutcome
    smallest_budget_bytes: int | None = None
    compute_us: float
    step_us: float | None = None
    bound_step_us: float | None = None
    bound_source: BoundSource | None = None
    gap: float | None = None
    peak_bytes: int | None = None
    d2h_bytes: int | None = None
    h2d_bytes: int | None = None
    host_pool_bytes: int | None = None
    proof: Proof | None = None
    solve_seconds: float | None = None


def sweep_points(
    choices: Sequence[LinkChoice], budgets_bytes: Sequence[int]
) -> tuple[SweepPoint, ...]:
    """Returns every combination: link by link, budget by budget, in the order given."""
    return tuple(
        SweepPoint(choice=choice, budget_bytes=budget_bytes)
        for choice, budget_bytes in product(choices, budgets_bytes)
    )


def solve_point(profile: Profile, point: SweepPoint, settings: SweepSettings) -> SweepRow:
    """Plans for one point.

    Raises:
        SolverError: The solver is missing or failed.
    """
    try:
        plan = solve(
            profile,
            budget_bytes=point.budget_bytes,
            link=point.choice.link,
            host_budget_bytes=point.choice.host_budget_bytes,
            solver=settings.solver,
            time_limit_s=settings.time_limit_s,
            min_size_bytes=settings.min_size_bytes,
        )
    except BudgetError as error:
        return _row(
            profile,
            point,
            outcome=SweepOutcome.UNMET,
            smallest_budget_bytes=error.smallest_budget_bytes,
        )
    return _row(profile, point, **_figures(plan))


def budgets_of_shares(peak_bytes: int, percents: Iterable[int]) -> tuple[int, ...]:
    """Returns budgets that are so many percent of a peak."""
    return tuple(peak_bytes * percent // 100 for percent in percents)


def solved_sweep_table(
    profile: Profile, points: Iterable[SweepPoint], settings: SweepSettings
) -> pd.DataFrame:
    """Plans for every point, one after the other; the table is that of `sweep_table`.

    Raises:
        SolverError: The solver is missing or failed.
    """
    return sweep_table(solve_point(profile, point, settings) for point in points)


def link_choices(links: Iterable[Link]) -> tuple[LinkChoice, ...]:
    """Returns links as one worker alone has them."""
    return tuple(LinkChoice(name=link.name, workers=1, link=link) for link in links)


def sweep_table(rows: Iterable[SweepRow]) -> pd.DataFrame:
    """Returns one row per point, in the order given; columns are the fields of `SweepRow`.

    What a point lacks is NA.
    """
    columns = [field.name for field in fields(SweepRow)]
    table = pd.DataFrame([asdict(row) for row in rows], columns=columns)
    whole = [name for name in columns if name.endswith("_bytes")]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _row(profile: Profile, point: SweepPoint, **figures: Any) -> SweepRow:
    choice = point.choice
    return SweepRow(
        link=choice.name,
        workers=choice.workers,
        all_reduce_on_link=choice.all_reduce_on_link,
        d2h_bytes_per_us=choice.link.d2h_bytes_per_us,
        h2d_bytes_per_us=choice.link.h2d_bytes_per_us,
        both_bytes_per_us=choice.link.both_bytes_per_us,
        budget_bytes=point.budget_bytes,
        compute_us=profile.step_us,
        **figures,
    )


def _figures(plan: Plan) -> dict[str, Any]:
    """What a row has only with a plan."""
    about = plan.certificate
    return {
        "outcome": SweepOutcome.PLANNED if plan.swaps else SweepOutcome.FITS,
        "step_us": about.simulated_step_us,
        "bound_step_us": about.compute_us + about.bound_stall_us,
        "bound_source": about.bound_source,
        "gap": about.gap,
        "peak_bytes": about.peak_bytes,
        "d2h_bytes": about.d2h_bytes,
        "h2d_bytes": about.h2d_bytes,
        "host_pool_bytes": plan.host_pool_bytes,
        "proof": about.proof,
        "solve_seconds": about.solve_seconds,
    }
