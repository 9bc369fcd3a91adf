"""From a profile to the planning problem."""

from dataclasses import replace

from planner.plan.plan import Boundary
from planner.problem.gaps import candidate_gaps, default_min_size_bytes, gap_parts, useful_gaps
from planner.problem.host_layout import whole_gaps_fit_host
from planner.problem.problem import Problem
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile


def problem_of(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link,
    host_budget_bytes: int | None = None,
    min_size_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
    every_gap: bool = False,
) -> Problem:
    """Returns the problem of planning a step; the same arguments always give the same one.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for.
        host_budget_bytes: Host bytes to stay within; None for no limit.
        min_size_bytes: Smaller storages stay; 1/1000 of the peak with nothing moved if None.
        boundary: Whether swaps may wrap round the step boundary.
        every_gap: Whether to keep the gaps that this budget has no use for.
    """
    resident_bytes = tuple(slot.resident_bytes for slot in slot_memory(profile))
    if min_size_bytes is None:
        min_size_bytes = default_min_size_bytes(max(resident_bytes))
    gaps = candidate_gaps(profile, min_size_bytes, boundary)
    whole = Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=resident_bytes,
        whole_gaps=gaps if every_gap else useful_gaps(gaps, resident_bytes, budget_bytes),
        link=link,
        boundary=boundary,
        min_size_bytes=min_size_bytes,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
    )
    if whole_gaps_fit_host(whole, whole.whole_set):
        return whole
    parts = gap_parts(whole.whole_gaps, whole.slot_count)
    return replace(whole, part_gaps=useful_gaps(parts, resident_bytes, budget_bytes))
