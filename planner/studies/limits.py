"""How far a step can grow on a device: the largest setting that fits, without and with a plan.

One setting of a workload, such as the edge of a volume or the batch, is the knob. Larger ones are
taken to need no less memory, so the largest that fits is found by doubling and then halving, each
try one estimate of the step. Then plans are made for a few settings between the two limits, since
what can be trained with a plan may still be too slow to be worth it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.ilp.deadline import SolverName
from planner.plan.plan import Without
from planner.problem.problem import problem_like, problem_of
from planner.problem.settings import WITHOUT_BY_DEFAULT
from planner.recompute.recipes import StepEffects
from planner.search.relief import relieved_step
from planner.smallest_budget import budget_wall, widest_set
from planner.studies.sweep import SweepRow, sweep_table
from profiles.schema.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

LIMITS_COLUMNS = ("setting", "without_setting", "planned_setting", "peak_without_bytes")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What one setting needs of the device.

    Attributes:
        peak_bytes: Peak with nothing moved.
        least_bytes: What it needs with all moved that helps to meet the budget; above the budget,
            the smallest budget that a plan can meet.
        wall: The op that needs the most then, and where it stands.
    """

    setting: int
    peak_bytes: int
    least_bytes: int
    wall: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest settings that fit.

    Attributes:
        budget_bytes: Device bytes to stay within.
        host_budget_bytes: Host bytes for one worker; None for no limit.
        without: The largest that fits with nothing moved; None if not even the smallest does.
        planned: The largest that fits with a plan; None likewise.
        beyond: The next larger one; None if there is none.
    """

    budget_bytes: int
    host_budget_bytes: int | None
    without: Footprint | None
    planned: Footprint | None
    beyond: Footprint | None


@dataclass(frozen=True, kw_only=True)
class LimitsRow:
    """A plan for one setting between the limits, with one link and number of workers."""

    limits: Limits
    setting: int
    peak_without_bytes: int
    planned: SweepRow


def footprint(
    setting: int,
    profile: Profile,
    *,
    budget_bytes: int,
    host_budget_bytes: int | None,
    solver: SolverName,
    without: Without = WITHOUT_BY_DEFAULT,
) -> Footprint:
    """Returns what a setting needs of the device, within a host's bytes if those are given.

    If those are too few to swap whatever helps, and storages may be dropped, it is the least that
    is known.

    Raises:
        SolverError: The solver that finds the smallest budget is missing or failed.
    """
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        # Memory is a fact of program order: any link gives the same.
        link=profile.link,
        host_budget_bytes=host_budget_bytes,
    )
    wall = budget_wall(profile, problem, widest_set(problem, solver).chosen)
    if without is not Without.RECOMPUTE and not problem.whole_fits_host(problem.whole_set):
        step = relieved_step(StepEffects(profile), problem)
        rewritten = problem_like(problem, step)
        other = budget_wall(step, rewritten, widest_set(rewritten, solver).chosen)
        wall = min(wall, other, key=lambda one: one.smallest_budget_bytes)
    return Footprint(
        setting=setting,
        peak_bytes=profile.peak_bytes,
        least_bytes=wall.smallest_budget_bytes,
        wall=wall.place,
    )


def find_limits(
    numbers: Sequence[int],
    footprint_of: Callable[[int], Footprint],
    *,
    budget_bytes: int,
    host_budget_bytes: int | None = None,
) -> Limits:
    """Finds the largest of some rising settings that fit; asks more than once for a footprint."""
    with_plan = count_fitting(numbers, lambda n: footprint_of(n).least_bytes <= budget_bytes)
    # What fits without a plan fits with one.
    without = count_fitting(
        numbers[:with_plan], lambda n: footprint_of(n).peak_bytes <= budget_bytes
    )
    return Limits(
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
        without=footprint_of(numbers[without - 1]) if without else None,
        planned=footprint_of(numbers[with_plan - 1]) if with_plan else None,
        beyond=footprint_of(numbers[with_plan]) if with_plan < len(numbers) else None,
    )


def count_fitting(numbers: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Returns how many of some rising numbers fit, if what fits a number fits all smaller ones."""
    low, high = 0, 1
    while high <= len(numbers) and fits(numbers[high - 1]):
        low, high = high, 2 * high
    high = min(high, len(numbers) + 1)
    return bisect_left(range(high - 1), True, lo=low, key=lambda n: not fits(numbers[n]))


def settings_between(numbers: Sequence[int], limits: Limits, count: int) -> tuple[int, ...]:
    """Returns a few settings that only a plan can train, evenly spread up to the largest one."""
    if limits.planned is None:
        return ()
    first = numbers.index(limits.without.setting) + 1 if limits.without else 0
    between = numbers[first : numbers.index(limits.planned.setting) + 1]
    count = min(count, len(between))
    return tuple(between[-(-len(between) * n // count) - 1] for n in range(1, count + 1))


def limits_table(rows: Iterable[LimitsRow], about: Mapping[str, str | int]) -> "pd.DataFrame":
    """Returns one row per plan.

    Columns: those of `about`, which all rows have in common; `setting`, `without_setting` and
    `planned_setting` (the limits, NA where nothing fits), `peak_without_bytes` (of the setting,
    with nothing moved); and the fields of `planner.studies.sweep.SweepRow`.
    """
    import pandas as pd

    rows = tuple(rows)
    own = pd.DataFrame(
        [
            (
                row.setting,
                row.limits.without.setting if row.limits.without else None,
                row.limits.planned.setting if row.limits.planned else None,
                row.peak_without_bytes,
            )
            for row in rows
        ],
        columns=list(LIMITS_COLUMNS),
        dtype="Int64",
    )
    common = pd.DataFrame([about] * len(rows), columns=list(about))
    return pd.concat([common, own, sweep_table(row.planned for row in rows)], axis=1)
