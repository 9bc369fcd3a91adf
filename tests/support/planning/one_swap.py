"""The smallest toys with a swap, their plans, and problems made of toys."""

from planner.plan.plan import Boundary, Plan
from planner.problem.gaps import candidate_gaps
from planner.problem.problem import Problem
from planner.solving import solve
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile
from tests.support.planning.toys import SLOW, activation, fixed, sandwich, toy


def problem_of(
    profile: Profile, budget_bytes: int, *, link: Link | None = None, host_bytes: int | None = None
) -> Problem:
    return Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=tuple(slot.resident_bytes for slot in slot_memory(profile)),
        whole_gaps=candidate_gaps(profile, 1),
        link=link or profile.link,
        boundary=Boundary.RESIDENT,
        min_size_bytes=1,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_bytes,
    )


def one_swap() -> Profile:
    """Slot 2 holds x and w, 12 bytes; x is idle in slots 1 to 3."""
    return toy(10, 10, 10, 10, 10, storages=[activation("pack:x", 6, 0, 4), fixed("w", 6, 2)])


def one_swap_plan() -> Plan:
    return solve(one_swap(), budget_bytes=6, min_size_bytes=1)


def slow_plan() -> Plan:
    """Five slots of 1000 us, with waits of 4000 us in slots 2 and 4 for copies of 5000 us."""
    return solve(sandwich(), budget_bytes=105, link=SLOW)
