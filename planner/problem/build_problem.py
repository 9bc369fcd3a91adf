"""From a profile to the planning problem."""

from dataclasses import replace

from planner.plan.device_memory import slot_memory
from planner.plan.plan import Boundary
from planner.problem.gaps import candidate_gaps, gap_parts, useful_gaps
from planner.problem.host_layout import whole_gaps_fit_host
from planner.problem.problem import Problem
from profiles.schema.profile import Link, Profile


def problem_of(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link,
    host_budget_bytes: int | None,
    min_size_bytes: int,
    boundary: Boundary,
) -> Problem:
    """Returns the problem of planning a step; the same arguments always give the same one.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for.
        host_budget_bytes: Host bytes to stay within; None for no limit.
        min_size_bytes: Smaller storages stay.
        boundary: Whether trips may wrap round the step boundary.
    """
    resident_bytes = tuple(slot.resident_bytes for slot in slot_memory(profile))
    whole = Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=resident_bytes,
        whole_gaps=useful_gaps(
            candidate_gaps(profile, min_size_bytes, boundary), resident_bytes, budget_bytes
        ),
        link=link,
        boundary=boundary,
        min_size_bytes=min_size_bytes,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
    )
    if whole_gaps_fit_host(whole, whole.whole_set):
        return whole
    gaps = gap_parts(whole.whole_gaps, whole.slot_count)
    return replace(whole, part_gaps=useful_gaps(gaps, resident_bytes, budget_bytes))
