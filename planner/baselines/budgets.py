"""Every baseline at every point of a sweep, in the simulator that our plans are scored in."""

from collections.abc import Iterable, Sequence

import pandas as pd

from planner.baselines.baseline import Baseline
from planner.baselines.case import case_of
from planner.baselines.compare import Comparison
from planner.sweep import SweepPoint
from profiles.profile import Profile

COLUMNS = ("link", "workers", "budget_bytes", "name", "fits", "step_us", "moved_bytes")


def baseline_sweep_table(
    profile: Profile, points: Iterable[SweepPoint], baselines: Sequence[Baseline]
) -> pd.DataFrame:
    """Returns one row per point and baseline, in the order given.

    Columns: `link`, `workers`, `budget_bytes` (as in `planner.sweep.sweep_table`), `name` (the
    baseline's), `fits` (whether what it chose is within the budget), `step_us` and `moved_bytes`
    (to the host per step); simulated.

    Args:
        profile: The step.
        points: What to plan for.
        baselines: Who plans.
    """
    rows = [
        (
            point.choice.name,
            point.choice.workers,
            point.budget_bytes,
            row.name,
            row.fits,
            row.step_us,
            row.moved_bytes,
        )
        for point in points
        for row in _comparison(profile, point).rows(baselines)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def step_times_table(sweep: pd.DataFrame, beside: pd.DataFrame, *, link: str) -> pd.DataFrame:
    """Returns step times over the time of compute on one link, one row per planner.

    Columns: `name` (index: ours first, then the bound, then the baselines), and one per budget in
    bytes, the largest first. What does not fit the budget is not a number.

    Args:
        sweep: From `planner.sweep.sweep_table`, for one number of workers.
        beside: From `baseline_sweep_table`, for the same points.
        link: Which link.
    """
    ours = sweep[sweep["link"] == link].set_index("budget_bytes")
    compute_us = ours["compute_us"].max()
    theirs = beside[(beside["link"] == link) & beside["fits"]]
    names = beside["name"].unique()
    budgets = sorted(ours.index, reverse=True)
    times_us = theirs.pivot_table(index="name", columns="budget_bytes", values="step_us")
    times_us = times_us.reindex(index=names, columns=budgets)
    both = ours[["step_us", "bound_step_us"]].astype(float).T.reindex(columns=budgets)
    both.index = pd.Index(["swapplan", "no plan is below"])
    table = pd.concat([both, times_us]) / compute_us
    table.index.name, table.columns.name = "name", "budget_bytes"
    return table


def _comparison(profile: Profile, point: SweepPoint) -> Comparison:
    case = case_of(profile, point.budget_bytes, point.choice.link)
    # No bound is asked of these rows: a sweep has its own.
    return Comparison(case, 0.0, is_full=False)
